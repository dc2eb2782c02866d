#include "conv2d.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "conv2d_wide.h"
#include "parallel.h"

namespace ttq {
namespace {

// A decoded panel's part: with the windows of a few pixels it fits a first-level cache of 32 KiB.
// For floats also what float32 sums may run through.
constexpr int64_t kPanelBytes = 20 << 10;
// Chunks of a long window whose float32 sums are added in float32, before they go to float64.
constexpr int64_t kFloatChunks = 16;
// Pixels between two decodings of a panel's part: their sums stay in the second-level cache.
constexpr int64_t kRangePixels = 1024;
// Pixels whose outputs are written at once.
constexpr int64_t kBlockPixels = 48;
// Padded images that a thread fills before it runs: as many as make decoding the weights cheap,
// at most half a second-level cache.
constexpr int64_t kSourcePixels = 512;
constexpr int64_t kSourceBytes = 256 << 10;
constexpr int64_t kLineBytes = 64;
// Tasks that each thread should find, so that an uneven split costs little.
constexpr int64_t kTasksPerThread = 4;

int64_t most_quads(const Kernels& kernels, bool quantized) {
  const int64_t quad = quantized ? 8 * kernels.tile_width_byte : 16 * kTileWidth;
  return kPanelBytes / quad;
}

// One output for each input channel, in few enough taps.
bool is_depthwise(const Conv2dShape& s) {
  return s.groups == s.channels && s.out_channels == s.channels && s.groups > 1 &&
         s.kernel_height * s.kernel_width <= kMostDepthwiseTaps;
}

int64_t window(int64_t outputs, int64_t stride, int64_t kernel, int64_t dilation) {
  return (outputs - 1) * stride + (kernel - 1) * dilation + 1;
}

}  // namespace

Convolution::Convolution(const Kernels& kernels, const Conv2dShape& s, bool quantized,
                         bool in_place)
    : kernels_(kernels),
      shape_(s),
      quantized_(quantized),
      depthwise_(is_depthwise(s)),
      width_(quantized ? kernels.tile_width_byte : kTileWidth),
      group_channels_(s.channels / s.groups),
      group_rows_(s.out_channels / s.groups),
      panels_of_group_(divide_up(group_rows_, width_)),
      source_rows_(window(s.out_height, s.stride_height, s.kernel_height, s.dilation_height)),
      source_columns_(window(s.out_width, s.stride_width, s.kernel_width, s.dilation_width)),
      strides_(in_place ? SourceStrides{s.row_stride, s.column_stride}
                        : SourceStrides{source_columns_ * s.channels, s.channels}),
      windows_(s, strides_, quantized && !depthwise_,
               depthwise_ ? kMostDepthwiseTaps : most_quads(kernels, quantized)),
      lookup_(kernels, s, strides_, source_rows_) {
  looks_up_ = quantized && lookup_.worthwhile();
  if (looks_up_) {
    width_ = kTableOutputs;
    panels_of_group_ = divide_up(group_rows_, width_);
  }
  if (depthwise_) {
    width_ = kTileWidth;
    panels_of_group_ = divide_up(s.channels, width_);
  }
}

int64_t Convolution::source_bytes() const {
  return round_up(source_rows_ * source_columns_ * shape_.channels * element_bytes(), 64);
}

void Convolution::fill(const float* image, float multiplier, int64_t row_begin, int64_t row_end,
                       void* source) const {
  const Conv2dShape& s = shape_;
  ImageFill f;
  f.x = image;
  f.row_stride = s.row_stride;
  f.column_stride = s.column_stride;
  f.channel_stride = s.channel_stride;
  f.rows = s.height;
  f.columns = s.width;
  f.channels = s.channels;
  f.top = s.padding_height;
  f.left = s.padding_width;
  f.row_begin = row_begin;
  f.row_end = row_end;
  f.out_columns = source_columns_;
  f.multiplier = multiplier;
  f.out = source;
  if (quantized_)
    kernels_.fill_byte(f);
  else
    kernels_.fill_float(f);
}

Convolution::Panel Convolution::panel(int64_t number) const {
  const int64_t group = number / panels_of_group_, within = number % panels_of_group_ * width_;
  if (depthwise_)
    return {within, within, static_cast<int>(std::min<int64_t>(width_, shape_.channels - within))};
  return {group * group_channels_, group * group_rows_ + within,
          static_cast<int>(std::min<int64_t>(width_, group_rows_ - within))};
}

void Convolution::run(const Weights& weights, const ConvolutionJob& job, int threads) const {
  if (looks_up_) return run_lookups(weights, job, threads);
  const int64_t pixels = job.images * shape_.out_height * shape_.out_width;
  // Parts of the outputs first: what splits the pixels decodes the same weights again.
  const int64_t wanted = threads > 1 ? kTasksPerThread * threads : 1;
  const int64_t panel_parts = std::min(panels(), wanted);
  const int64_t pixel_parts = std::min(divide_up(wanted, panel_parts),
                                       std::max<int64_t>(1, pixels / kBlockPixels));
  parallel_for(panel_parts * pixel_parts, threads, [&](int64_t task) {
    const int64_t part = task % panel_parts, p = task / panel_parts;
    for (int64_t i = panels() * part / panel_parts; i < panels() * (part + 1) / panel_parts; i++)
      panel_outputs(weights, job, panel(i), pixels * p / pixel_parts,
                    pixels * (p + 1) / pixel_parts);
  });
}

void Convolution::run_lookups(const Weights& weights, const ConvolutionJob& job,
                              int threads) const {
  int64_t rows = lookup_.band_rows();
  if (threads > 1)
    rows = std::min(rows, std::max<int64_t>(1, job.images * shape_.out_height / (2 * threads)));
  const int64_t bands = divide_up(shape_.out_height, rows), code_bytes = lookup_.code_bytes();
  uint8_t* codes = scratch_array<uint8_t>(Scratch::kPanel, panels() * code_bytes);
  parallel_for(panels(), threads, [&](int64_t p) {
    const Panel outputs = panel(p);
    lookup_.order_codes(weights, outputs.row, outputs.rows, codes + p * code_bytes);
  });
  parallel_for(job.images * bands, threads, [&](int64_t task) {
    const int64_t band = task % bands;
    band_outputs(weights, job, codes, task / bands, shape_.out_height * band / bands,
                 shape_.out_height * (band + 1) / bands);
  });
}

void Convolution::band_outputs(const Weights& weights, const ConvolutionJob& job,
                               const uint8_t* codes, int64_t image, int64_t row_begin,
                               int64_t row_end) const {
  const int64_t rows = row_end - row_begin, width = shape_.out_width;
  uint8_t* tables = scratch_array<uint8_t>(Scratch::kTables, lookup_.band_bytes(rows));
  lookup_.make_tables(static_cast<const int8_t*>(job.source) + image * job.source_stride,
                      row_begin, rows, tables);
  const int64_t row_sums = lookup_.row_pixels() * 2 * kTableOutputs;
  // Rows without pixels between them are finished together.
  const bool together = lookup_.row_pixels() == width;
  const int64_t rows_kept = lookup_.parts() == 1 ? 1 : rows;
  int32_t* sums = scratch_array<int32_t>(
      Scratch::kSums, rows_kept * row_sums + kernels_.table_pixels * 2 * kTableOutputs);
  const int64_t first_pixel = image * shape_.out_height * width;
  for (int64_t p = 0; p < panels(); p++) {
    const Panel outputs = panel(p);
    for (int64_t part = 0; part < lookup_.parts(); part++)
      for (int64_t row = 0; row < rows; row++) {
        int32_t* place = sums + (rows_kept == 1 ? 0 : row * row_sums);
        if (job.ahead) fetch_row(job, outputs, image, row_begin + row, part);
        lookup_.row_sums(part, tables, row, codes + p * lookup_.code_bytes(), place);
        if (part + 1 < lookup_.parts()) continue;
        const bool all = together && rows_kept > 1;
        if (all && row + 1 < rows) continue;
        const int64_t first = first_pixel + (row_begin + (all ? 0 : row)) * width;
        finish(weights, job, outputs, first, first_pixel + (row_begin + row + 1) * width,
               reinterpret_cast<const char*>(all ? sums : place));
      }
  }
}

// What the row wants written, and a share of the images that come next.
void Convolution::fetch_row(const ConvolutionJob& job, const Panel& panel, int64_t image,
                            int64_t row, int64_t part) const {
  const int64_t rows = job.images * shape_.out_height;
  if (panel.row == 0 && part == 0) {
    const int64_t done = (image * shape_.out_height + row) * job.ahead_bytes / rows;
    for (int64_t b = 0; b < job.ahead_bytes / rows; b += kLineBytes)
      __builtin_prefetch(job.ahead + done + b);
  }
  if (part + 1 < lookup_.parts()) return;
  const ImageStrides& to = job.y_strides;
  const float* y = job.y + image * to.image + row * to.row + panel.row * to.channel;
  if (to.channel == 1) {
    for (int64_t x = 0; x < shape_.out_width; x++) __builtin_prefetch(y + x * to.pixel, 1);
  } else {
    for (int r = 0; r < panel.rows; r++)
      for (int64_t x = 0; x < shape_.out_width; x += kLineBytes / 4)
        __builtin_prefetch(y + r * to.channel + x, 1);
  }
}

void Convolution::panel_outputs(const Weights& weights, const ConvolutionJob& job,
                                const Panel& panel, int64_t pixel_begin,
                                int64_t pixel_end) const {
  const bool whole = windows_.chunks().size() == 1;
  for (int64_t p = pixel_begin; p < pixel_end; p += kRangePixels)
    range_outputs(weights, job, panel, p, std::min(p + kRangePixels, pixel_end),
                  whole && p > pixel_begin);
}

void Convolution::range_outputs(const Weights& weights, const ConvolutionJob& job,
                                const Panel& panel, int64_t pixel_begin, int64_t pixel_end,
                                bool decoded) const {
  const auto chunks = static_cast<int64_t>(windows_.chunks().size());
  const int64_t kept = chunks == 1 ? kBlockPixels : pixel_end - pixel_begin;
  char* sums = scratch_array<char>(Scratch::kSums, kept * sum_bytes());
  const bool long_sums = !quantized_ && chunks > kFloatChunks;
  const int64_t values = long_sums ? kept * width_ : 0;
  double* totals = long_sums ? scratch_array<double>(Scratch::kTotals, values) : nullptr;
  std::fill_n(totals, values, 0.0);
  for (int64_t c = 0; c < chunks; c++) {
    const WindowChunk& chunk = windows_.chunks()[c];
    if (!decoded) decode(weights, panel, chunk);
    const bool first = long_sums ? c % kFloatChunks == 0 : c == 0;
    for (int64_t p = pixel_begin; p < pixel_end; p += kBlockPixels) {
      const int64_t end = std::min(p + kBlockPixels, pixel_end);
      char* block = chunks == 1 ? sums : sums + (p - pixel_begin) * sum_bytes();
      tiles(job, panel, chunk, p, end, first, block);
      if (c + 1 == chunks && !long_sums) finish(weights, job, panel, p, end, block);
    }
    if (long_sums && (c % kFloatChunks == kFloatChunks - 1 || c + 1 == chunks)) {
      const float* part = reinterpret_cast<const float*>(sums);
      for (int64_t i = 0; i < values; i++) totals[i] += part[i];
    }
  }
  if (!long_sums) return;
  float* result = reinterpret_cast<float*>(sums);
  for (int64_t i = 0; i < values; i++) result[i] = static_cast<float>(totals[i]);
  finish(weights, job, panel, pixel_begin, pixel_end, sums);
}

void Convolution::decode(const Weights& w, const Panel& panel, const WindowChunk& chunk) const {
  void* decoded = scratch(Scratch::kPanel, chunk.quads * (quantized_ && !depthwise_ ? 8 : 16) * width_);
  if (w.dense) return decode_dense(w, panel, chunk, static_cast<float*>(decoded));
  TileDecode d{};
  d.quads = chunk.quads;
  d.rows = panel.rows;
  d.w_pos = w.scale_pos + panel.row;
  d.w_neg = w.scale_neg + panel.row;
  d.weights = decoded;
  const int64_t nibbles = panel.row / kPanelRows, within = panel.row % kPanelRows;
  if (windows_.direct() && within + panel.rows <= kPanelRows) {
    d.stride = std::min<int64_t>(kPanelRows, w.rows - nibbles * kPanelRows);
    d.codes = w.codes + nibbles * kPanelRows * w.depth() + within;
    d.places = windows_.places(chunk);
  } else {
    reorder(w, panel, chunk, d);
  }
  if (quantized_ && depthwise_)
    kernels_.decode_masks(d);
  else if (quantized_)
    kernels_.decode_byte(d);
  else
    kernels_.decode_float(d);
}

// Dense weights in the order of the chunk's quads.
void Convolution::decode_dense(const Weights& w, const Panel& panel, const WindowChunk& chunk,
                               float* decoded) const {
  const int64_t taps = shape_.kernel_height * shape_.kernel_width, columns = group_channels_ * taps;
  const float* rows = w.dense + panel.row * columns;
  for (int64_t k = 0; k < 4 * chunk.quads; k++, decoded += kTileWidth) {
    int64_t place = -1;
    if (windows_.direct()) {
      const int64_t quad = windows_.places(chunk)[k / 4];
      place = (quad / taps * 4 + k % 4) * taps + quad % taps;
    } else {
      const int64_t column = windows_.columns(chunk)[k], quad = column / 4;
      if (column >= 0)
        place = shape_.shared_tables ? (quad / taps * 4 + column % 4) * taps + quad % taps : column;
    }
    for (int r = 0; r < kTileWidth; r++)
      decoded[r] = place >= 0 && r < panel.rows ? rows[r * columns + place] : 0.0f;
  }
}

// The chunk's codes as a nibble panel of its own, in the order of its quads.
void Convolution::reorder(const Weights& w, const Panel& panel, const WindowChunk& chunk,
                          TileDecode& d) const {
  uint8_t* codes = scratch_array<uint8_t>(Scratch::kTables, chunk.quads * width_);
  int32_t* places = scratch_array<int32_t>(Scratch::kPlaces, chunk.quads);
  std::memset(codes, 0, chunk.quads * width_);
  for (int64_t q = 0; q < chunk.quads; q++) places[q] = static_cast<int32_t>(q);
  for (int done = 0; done < panel.rows;) {
    const int64_t row = panel.row + done, nibbles = row / kPanelRows;
    const int64_t stride = std::min<int64_t>(kPanelRows, w.rows - nibbles * kPanelRows);
    const int rows = static_cast<int>(std::min(panel.rows - done + int64_t{0},
                                               (nibbles + 1) * kPanelRows - row));
    const uint8_t* from = w.codes + nibbles * kPanelRows * w.depth() + row % kPanelRows;
    for (int64_t q = 0; q < chunk.quads; q++) {
      uint8_t* out = codes + q * width_ + done;
      for (int t = 0; t < 4; t++) {
        const int32_t column =
            windows_.direct() ? 4 * windows_.places(chunk)[q] + t : windows_.columns(chunk)[4 * q + t];
        if (column < 0) continue;
        const uint8_t* bytes = from + column / 4 * stride;
        const int bit = column % 4;
        for (int r = 0; r < rows; r++)
          out[r] = static_cast<uint8_t>(out[r] | (bytes[r] >> bit & 0x11) << t);
      }
    }
    done += rows;
  }
  d.codes = codes;
  d.places = places;
  d.stride = width_;
}

void Convolution::tiles(const ConvolutionJob& job, const Panel& panel, const WindowChunk& chunk,
                        int64_t pixel_begin, int64_t pixel_end, bool first, char* sums) const {
  const int64_t image_pixels = shape_.out_height * shape_.out_width, element = element_bytes();
  const int64_t step = shape_.stride_width * strides_.pixel * element;
  const int64_t row_step = shape_.stride_height * strides_.row * element;
  int64_t image = pixel_begin / image_pixels;
  int64_t y = pixel_begin % image_pixels / shape_.out_width, x = pixel_begin % shape_.out_width;
  const ImageStrides& to = job.y_strides;
  // Where many images pass through, lines of outputs are fetched before they are written.
  const bool fetch_outputs = job.ahead && &chunk == &windows_.chunks().back();
  const void* pixels[kBlockPixels];
  const float* outputs[kBlockPixels];
  int count = 0;
  for (int64_t left = pixel_end - pixel_begin; left > 0;) {
    const int64_t now = std::min(left, shape_.out_width - x);
    const char* place = static_cast<const char*>(job.source) +
                        (image * job.source_stride + panel.channel) * element +
                        y * row_step + x * step;
    const float* output = job.y + image * to.image + y * to.row + panel.row * to.channel;
    for (int64_t i = 0; i < now; i++) {
      outputs[count] = output + (x + i) * to.pixel;
      pixels[count++] = place + i * step;
    }
    left -= now;
    x = 0;
    if (++y == shape_.out_height) {
      y = 0;
      image++;
    }
  }
  // The first panel's tiles fetch what is wanted next, a few lines each.
  const bool fetch = panel.row == 0 && chunk.first_quad == 0;
  const int64_t ahead_pixel = fetch ? job.ahead_bytes / (job.images * image_pixels) : 0;
  const char* ahead = job.ahead + pixel_begin * ahead_pixel;
  Tile tile{};
  tile.runs = windows_.runs(chunk);
  tile.run_count = chunk.runs;
  tile.weights = scratch(Scratch::kPanel, 0);
  tile.first = first;
  int most = quantized_ ? kernels_.tile_pixels_byte : kernels_.tile_pixels_float;
  auto run = quantized_ ? kernels_.tile_byte : kernels_.tile_float;
  if (depthwise_) {
    most = kernels_.depthwise_pixels;
    run = quantized_ ? kernels_.depthwise_byte : kernels_.depthwise_float;
  }
  // Tiles of about equal size: those of a few pixels wait for their sums.
  for (int p = 0, left = (count + most - 1) / most; left > 0; p += tile.count, left--) {
    tile.pixels = pixels + p;
    tile.count = depthwise_ ? std::min(most, count - p) : (count - p) / left;
    tile.sums = sums + p * sum_bytes();
    for (int64_t b = p * ahead_pixel; b < (p + tile.count) * ahead_pixel; b += kLineBytes)
      __builtin_prefetch(ahead + b);
    if (fetch_outputs && to.channel == 1)
      for (int i = 0; i < tile.count; i++) __builtin_prefetch(outputs[p + i], 1);
    else if (fetch_outputs)
      for (int r = 0; r < panel.rows; r++) __builtin_prefetch(outputs[p] + r * to.channel, 1);
    run(tile);
  }
}

void Convolution::finish(const Weights& w, const ConvolutionJob& job, const Panel& panel,
                         int64_t pixel_begin, int64_t pixel_end, const char* sums) const {
  const int64_t image_pixels = shape_.out_height * shape_.out_width, width = shape_.out_width;
  const auto even = [&](const ImageStrides& strides) { return strides.row == width * strides.pixel; };
  const bool whole = even(job.y_strides) && (!job.residual || even(job.residual_strides));
  const auto place = [&](const ImageStrides& strides, int64_t image, int64_t pixel) {
    return image * strides.image + pixel / width * strides.row + pixel % width * strides.pixel +
           panel.row * strides.channel;
  };
  TileFinish f{};
  f.rows = panel.rows;
  f.w_pos = w.scale_pos + panel.row;
  f.w_neg = w.scale_neg + panel.row;
  f.bias = w.bias ? w.bias + panel.row : nullptr;
  f.residual_pixel = job.residual_strides.pixel;
  f.residual_row = job.residual_strides.channel;
  f.y_pixel = job.y_strides.pixel;
  f.y_row = job.y_strides.channel;
  f.relu = w.relu;
  for (int64_t p = pixel_begin; p < pixel_end; p += f.count) {
    const int64_t image = p / image_pixels, pixel = p % image_pixels;
    const int64_t rest = whole ? image_pixels - pixel : width - pixel % width;
    f.count = std::min(rest, pixel_end - p);
    f.sums = sums + (p - pixel_begin) * sum_bytes();
    f.scale = quantized_ ? job.scales[image] : 1.0f;
    f.residual = job.residual ? job.residual + place(job.residual_strides, image, pixel) : nullptr;
    f.y = job.y + place(job.y_strides, image, pixel);
    if (quantized_ && (looks_up_ || depthwise_))
      kernels_.finish_sixteen(f);
    else if (quantized_)
      kernels_.finish_tile_byte(f);
    else
      kernels_.finish_tile_float(f);
  }
}

namespace {

// max |x| over an image of any strides.
float image_largest(const Kernels& kernels, const Conv2dShape& s, const float* image) {
  const int64_t pixels = s.height * s.width;
  const bool nchw = s.column_stride == 1 && s.row_stride == s.width && s.channel_stride == pixels;
  const bool nhwc = s.channel_stride == 1 && s.column_stride == s.channels &&
                    s.row_stride == s.width * s.channels;
  if (nchw || nhwc) return kernels.largest(image, s.channels * pixels);
  float most = 0;
  float* row = scratch_array<float>(Scratch::kTables, s.width);
  for (int64_t c = 0; c < s.channels; c++) {
    for (int64_t y = 0; y < s.height; y++) {
      const float* pixel = image + c * s.channel_stride + y * s.row_stride;
      for (int64_t i = 0; i < s.width; i++) row[i] = pixel[i * s.column_stride];
      const float here = kernels.largest(row, s.width);
      if (!(here <= most)) most = here;  // also takes a NaN,
      if (most != most) return most;     // which then stays
    }
  }
  return most;
}

// Channels-last floats without padding are read where they are.
bool runs_in_place(const Conv2dShape& s, bool quantized) {
  // Whole vectors of channels are read, past the last pixel where they do not come out even.
  if (is_depthwise(s) && s.channels % kTileWidth) return false;
  return !quantized && s.padding_height == 0 && s.padding_width == 0 &&
         (s.channel_stride == 1 || s.channels == 1);
}

// One call's images, their outputs and residuals.
class Call {
 public:
  Call(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape, const float* x,
       const float* residual, const ImageStrides& residual_strides, float* y,
       const ImageStrides& y_strides)
      : kernels_(kernels),
        weights_(weights),
        shape_(shape),
        x_(x),
        residual_(residual),
        residual_strides_(residual_strides),
        y_(y),
        y_strides_(y_strides),
        in_place_(runs_in_place(shape, weights.quantized)),
        dense_(shape.image_stride == shape.channels * shape.height * shape.width),
        convolution_(kernels, shape, weights.quantized, in_place_) {}

  bool run(int threads) {
    if (!convolution_.usable()) return false;
    const int64_t fitting = std::max<int64_t>(
        1, std::min(kSourceBytes / convolution_.source_bytes(),
                    divide_up(kSourcePixels, shape_.out_height * shape_.out_width)));
    if (threads > 1 && shape_.images < 2 * threads) return run_together(threads);
    // Each thread takes some images and does all for them, a few at a time.
    const int64_t tasks = threads > 1 ? std::min(shape_.images, kTasksPerThread * threads) : 1;
    std::atomic<bool> good{true};
    parallel_for(tasks, threads, [&](int64_t task) {
      const int64_t begin = shape_.images * task / tasks, end = shape_.images * (task + 1) / tasks;
      const int64_t steps = divide_up(end - begin, fitting);
      for (int64_t step = 0; step < steps && good; step++) {
        const int64_t first = begin + (end - begin) * step / steps;
        const int64_t next = begin + (end - begin) * (step + 1) / steps;
        if (!some(first, next - first, end, 1)) good = false;
      }
    });
    return good;
  }

 private:
  // All threads work on the same few images.
  bool run_together(int threads) {
    for (int64_t first = 0; first < shape_.images; first += threads)
      if (!some(first, std::min<int64_t>(threads, shape_.images - first), shape_.images, threads))
        return false;
    return true;
  }

  // Images [first, first + images) of those up to `end` that this thread does.
  bool some(int64_t first, int64_t images, int64_t end, int threads) {
    float* scales = scratch_array<float>(Scratch::kQuantized, 2 * images);
    float* multipliers = scales + images;
    std::atomic<bool> good{true};
    parallel_for(images, threads, [&](int64_t i) {
      const float most = image_largest(kernels_, shape_, x_ + (first + i) * shape_.image_stride);
      if (!weights_.quantized && !(most <= kLargestActivation)) good = false;
      const RowScale scale = row_scale(most);
      scales[i] = scale.scale;
      multipliers[i] = scale.multiplier;
    });
    if (!good) return false;
    ConvolutionJob job{};
    job.images = images;
    job.scales = scales;
    job.residual = residual_ ? residual_ + first * residual_strides_.image : nullptr;
    job.residual_strides = residual_strides_;
    job.y = y_ + first * y_strides_.image;
    job.y_strides = y_strides_;
    if (first + images < end && dense_) {
      job.ahead = reinterpret_cast<const char*>(x_ + (first + images) * shape_.image_stride);
      job.ahead_bytes = std::min(images, end - first - images) * shape_.image_stride *
                        static_cast<int64_t>(sizeof(float));
    }
    job.source = x_ + first * shape_.image_stride;
    job.source_stride = shape_.image_stride;
    if (!in_place_) {
      const int64_t bytes = convolution_.source_bytes(), rows = convolution_.source_rows();
      char* source = scratch_array<char>(Scratch::kSource, images * bytes + 4 * kTileSlack);
      const int64_t parts = threads > 1 ? std::min<int64_t>(rows, kTasksPerThread * threads) : 1;
      parallel_for(images * parts, threads, [&](int64_t task) {
        const int64_t i = task / parts, part = task % parts;
        convolution_.fill(x_ + (first + i) * shape_.image_stride, multipliers[i],
                          rows * part / parts, rows * (part + 1) / parts, source + i * bytes);
      });
      job.source = source;
      job.source_stride = convolution_.source_elements();
    }
    convolution_.run(weights_, job, threads);
    return true;
  }

  const Kernels& kernels_;
  const Weights& weights_;
  const Conv2dShape& shape_;
  const float* x_;
  const float* residual_;
  const ImageStrides& residual_strides_;
  float* y_;
  const ImageStrides& y_strides_;
  bool in_place_, dense_;
  Convolution convolution_;
};

// Of contiguous or channels-last images (images, channels, height, width).
ImageStrides strides_of(const Conv2dShape& s, bool channels_last) {
  const int64_t pixels = s.out_height * s.out_width, channels = s.out_channels;
  if (channels_last) return {pixels * channels, s.out_width * channels, channels, 1};
  return {pixels * channels, s.out_width, 1, pixels};
}

}  // namespace

bool conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
            const float* x, const float* residual, float* y, int threads) {
  const ImageStrides residual_strides = strides_of(shape, shape.residual_channels_last);
  const ImageStrides y_strides = strides_of(shape, shape.channels_last);
  if (weights.layout != Layout::kNibbles) {
    std::vector<RowScale> scales(shape.images);
    std::atomic<bool> good{true};
    parallel_for(shape.images, threads, [&](int64_t i) {
      const float most = image_largest(kernels, shape, x + i * shape.image_stride);
      if (!weights.quantized && !(most <= kLargestActivation)) good = false;
      scales[i] = row_scale(most);
    });
    if (!good) return false;
    wide_conv2d(kernels, weights, shape, x, scales.data(), residual, residual_strides, y, y_strides,
                threads);
    return true;
  }
  return Call(kernels, weights, shape, x, residual, residual_strides, y, y_strides).run(threads);
}

}  // namespace ttq
