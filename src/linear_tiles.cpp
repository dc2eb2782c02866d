#include "linear_tiles.h"

#include <algorithm>

#include "layout.h"
#include "parallel.h"

namespace ttq {
namespace {

// Columns of one decoded panel, which stays in the first-level cache; their sums are float32.
constexpr int64_t kChunkQuads = 32;
// Chunks whose sums are added in float32 before they go to float64.
constexpr int64_t kChunksInFloat = 16;
// Input rows that share a decoded panel: a chunk of them stays in the second-level cache.
constexpr int64_t kInputRows = 192;

struct ChunkPlaces {
  int32_t places[kChunkQuads];
  constexpr ChunkPlaces() : places() {
    for (int i = 0; i < kChunkQuads; i++) places[i] = i;
  }
};
constexpr ChunkPlaces kPlaces;

class TileLinear {
 public:
  TileLinear(const Kernels& kernels, const Weights& weights) : kernels_(kernels), w_(weights) {}

  // Outputs [row, row + kTileWidth) of `count` input rows.
  void run(int64_t row, const float* x, int64_t count, const float* residual, float* y,
           int64_t stride) const {
    const int64_t values = count * kTileWidth, quads = w_.depth();
    float* sums = scratch_array<float>(Scratch::kSums, values);
    const bool in_float = quads <= kChunkQuads * kChunksInFloat;
    double* totals = in_float ? nullptr : scratch_array<double>(Scratch::kTotals, values);
    if (totals) std::fill_n(totals, values, 0.0);
    int64_t chunk = 0;
    for (int64_t q = 0; q < quads; q += kChunkQuads, chunk++) {
      const int64_t now = std::min(kChunkQuads, quads - q);
      const bool first = chunk % kChunksInFloat == 0;
      if (totals && first && chunk) take_over(sums, values, totals);
      add_chunk(decode(row, q, now), x, count, 4 * q, std::min(4 * now, w_.columns - 4 * q), first,
                sums);
    }
    if (totals) {
      take_over(sums, values, totals);
      for (int64_t i = 0; i < values; i++) sums[i] = static_cast<float>(totals[i]);
    }
    TileFinish f{};
    f.sums = sums;
    f.count = count;
    f.rows = outputs(row);
    f.w_pos = w_.scale_pos + row;
    f.w_neg = w_.scale_neg + row;
    f.scale = 1.0f;
    f.bias = w_.bias ? w_.bias + row : nullptr;
    f.residual = residual ? residual + row : nullptr;
    f.residual_pixel = f.y_pixel = stride;
    f.residual_row = f.y_row = 1;
    f.y = y + row;
    f.relu = w_.relu;
    kernels_.finish_tile_float(f);
  }

 private:
  int outputs(int64_t row) const {
    return static_cast<int>(std::min<int64_t>(kTileWidth, w_.rows - row));
  }

  static void take_over(const float* sums, int64_t count, double* totals) {
    for (int64_t i = 0; i < count; i++) totals[i] += sums[i];
  }

  const void* decode(int64_t row, int64_t quad, int64_t quads) const {
    const int64_t panel = row / kPanelRows * kPanelRows;
    TileDecode d{};
    d.stride = std::min<int64_t>(kPanelRows, w_.rows - panel);
    d.codes = w_.codes + panel * w_.depth() + quad * d.stride + row - panel;
    d.places = kPlaces.places;
    d.quads = quads;
    d.rows = outputs(row);
    d.w_pos = w_.scale_pos + row;
    d.w_neg = w_.scale_neg + row;
    d.weights = scratch_array<float>(Scratch::kPanel, kChunkQuads * 4 * kTileWidth);
    kernels_.decode_float(d);
    return d.weights;
  }

  void add_chunk(const void* weights, const float* x, int64_t count, int64_t column, int64_t columns,
                 bool first, float* sums) const {
    const TileRun whole{0, static_cast<int32_t>(columns)};
    const void* pixels[kInputRows];
    for (int64_t m = 0; m < count; m++) pixels[m] = x + m * w_.columns + column;
    Tile tile{};
    tile.runs = &whole;
    tile.run_count = 1;
    tile.weights = weights;
    tile.first = first;
    const int64_t most = kernels_.tile_pixels_float;
    // Tiles of about equal size: those of a few rows wait for their sums.
    for (int64_t m = 0, left = divide_up(count, most); left > 0; m += tile.count, left--) {
      tile.pixels = pixels + m;
      tile.count = static_cast<int>((count - m) / left);
      tile.sums = sums + m * kTileWidth;
      kernels_.tile_float(tile);
    }
  }

  const Kernels& kernels_;
  const Weights& w_;
};

}  // namespace

void tiles_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads) {
  const TileLinear job(kernels, weights);
  const int64_t tiles = divide_up(weights.rows, kTileWidth), blocks = divide_up(count, kInputRows);
  parallel_for(blocks * tiles, threads, [&](int64_t task) {
    const int64_t block = task / tiles, m = count * block / blocks;
    const int64_t end = count * (block + 1) / blocks;
    job.run(task % tiles * kTileWidth, x + m * weights.columns, end - m,
            residual ? residual + m * stride : nullptr, y + m * stride, stride);
  });
}

}  // namespace ttq
