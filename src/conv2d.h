// A convolution on padded channels-last images, prepared once, run as often as one likes.
//
// int8 activations may go by lookup (lookup_conv2d.h). Else, and for floats:
//
// For each panel of W outputs the packed weights are decoded into scratch memory, a part of the
// window at a time so that they stay in the first-level cache, and multiplied with the windows of
// all pixels. No im2col: a window is a few runs of consecutive elements of the padded image.
#pragma once

#include <cstdint>

#include "lookup_conv2d.h"
#include "windows.h"

namespace ttq {

// Floats between neighbours; channels or pixels are consecutive.
struct ImageStrides {
  int64_t image, row, pixel, channel;
};

// The images of one run. Sources: [padded rows][padded columns][channels] as fill() makes them, or
// channels-last images as they are (of a Convolution made with `in_place`).
struct ConvolutionJob {
  const void* source;
  int64_t source_stride;  // elements between images
  int64_t images;
  const float* scales;    // of each image's integers; unused with float32 activations
  const float* residual;  // or null
  ImageStrides residual_strides;
  float* y;
  ImageStrides y_strides;
  // Memory to fetch meanwhile, that of the images which come next; outputs are then fetched too.
  const char* ahead = nullptr;
  int64_t ahead_bytes = 0;
};

class Convolution {
 public:
  // Keeps references to `kernels` only. With `in_place`, sources are the inputs themselves: float32,
  // without padding, channels consecutive, strides as in `shape`.
  Convolution(const Kernels& kernels, const Conv2dShape& shape, bool quantized, bool in_place);

  const Conv2dShape& shape() const { return shape_; }
  bool usable() const { return windows_.usable(); }
  // Bytes of one image's source, a multiple of 64; the last one's is followed by kTileSlack
  // elements more.
  int64_t source_bytes() const;
  int64_t source_elements() const { return source_bytes() / element_bytes(); }
  int64_t source_rows() const { return source_rows_; }

  // Rows [row_begin, row_end) of the source of an image with the strides of `shape`.
  void fill(const float* image, float multiplier, int64_t row_begin, int64_t row_end,
            void* source) const;

  void run(const Weights& weights, const ConvolutionJob& job, int threads) const;

 private:
  struct Panel {
    int64_t channel, row;  // first input and output channel
    int rows;
  };

  int64_t element_bytes() const { return quantized_ ? 1 : sizeof(float); }
  int64_t sum_bytes() const { return quantized_ ? 8 * width_ : 4 * width_; }
  void run_lookups(const Weights& weights, const ConvolutionJob& job, int threads) const;
  void band_outputs(const Weights& weights, const ConvolutionJob& job, const uint8_t* codes,
                    int64_t image, int64_t row_begin, int64_t row_end) const;
  int64_t panels() const { return depthwise_ ? panels_of_group_ : shape_.groups * panels_of_group_; }
  Panel panel(int64_t number) const;
  void decode(const Weights& weights, const Panel& panel, const WindowChunk& chunk) const;
  void decode_dense(const Weights& weights, const Panel& panel, const WindowChunk& chunk,
                    float* decoded) const;
  void reorder(const Weights& weights, const Panel& panel, const WindowChunk& chunk,
               TileDecode& decode) const;
  void fetch_row(const ConvolutionJob& job, const Panel& panel, int64_t image, int64_t row,
                 int64_t part) const;
  void panel_outputs(const Weights& weights, const ConvolutionJob& job, const Panel& panel,
                     int64_t pixel_begin, int64_t pixel_end) const;
  void range_outputs(const Weights& weights, const ConvolutionJob& job, const Panel& panel,
                     int64_t pixel_begin, int64_t pixel_end, bool decoded) const;
  void tiles(const ConvolutionJob& job, const Panel& panel, const WindowChunk& chunk,
             int64_t pixel_begin, int64_t pixel_end, bool first, char* sums) const;
  void finish(const Weights& weights, const ConvolutionJob& job, const Panel& panel,
              int64_t pixel_begin, int64_t pixel_end, const char* sums) const;

  const Kernels& kernels_;
  Conv2dShape shape_;
  bool quantized_, depthwise_;
  int width_;  // outputs of a panel
  int64_t group_channels_, group_rows_, panels_of_group_;
  int64_t source_rows_, source_columns_;
  SourceStrides strides_;
  Windows windows_;
  bool looks_up_;
  LookupConvolution lookup_;
};

}  // namespace ttq
