// Where the windows of a convolution lie in a channels-last image, and in which order their
// weights follow each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operators.h"

namespace ttq {

// Elements between neighbours of an image whose channels are consecutive.
struct SourceStrides {
  int64_t row, pixel;
};

// A part of every window that one decoded panel of weights covers.
struct WindowChunk {
  int64_t first_quad, quads;
  int64_t first_run, runs;
};

class Windows {
 public:
  // `bytes`: runs are rounded up to whole quads. A chunk has at most `most_quads` quads.
  Windows(const Conv2dShape& shape, SourceStrides strides, bool bytes, int64_t most_quads);

  // Whether every window's elements are within reach of TileRun.
  bool usable() const { return usable_; }
  const std::vector<WindowChunk>& chunks() const { return chunks_; }
  const TileRun* runs(const WindowChunk& chunk) const { return runs_.data() + chunk.first_run; }

  // Whether each quad is a byte of the packed matrix, and then which byte column it is.
  bool direct() const { return places_.size() == static_cast<size_t>(quads_); }
  const int32_t* places(const WindowChunk& chunk) const {
    return places_.data() + chunk.first_quad;
  }
  // Four columns of the packed matrix for each quad, -1 where the weight is zero.
  const int32_t* columns(const WindowChunk& chunk) const {
    return columns_.data() + 4 * chunk.first_quad;
  }

 private:
  void order_quads(const Conv2dShape& shape, bool bytes, const std::vector<TileRun>& runs);
  void cut(const std::vector<TileRun>& runs, bool bytes, int64_t most_quads);

  bool usable_ = true;
  int64_t quads_ = 0;
  std::vector<TileRun> runs_;
  std::vector<WindowChunk> chunks_;
  std::vector<int32_t> places_, columns_;
};

}  // namespace ttq
