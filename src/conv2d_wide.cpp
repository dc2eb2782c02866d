// A strip of an output row is computed at a time, a few of its pixels together: what linear_wide.cpp
// does for input rows. Padded rows of the input are kept while windows reach them, as tables where
// those serve all windows (a run of the window is then consecutive tables, and neighbouring outputs
// are a fixed distance apart), else as they are, from which each window is put together.
#include "conv2d_wide.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "wide_sums.h"

namespace ttq {
namespace {

// Outputs that are finished together, in the order that finish_tile_* take.
constexpr int64_t kBlockRows = 16;
constexpr int64_t kMostStrip = 32;
constexpr int64_t kLeastStrip = 8;
// What a thread keeps of the input: half a second-level cache.
constexpr int64_t kRingBytes = 512 << 10;
constexpr int64_t kTasksPerThread = 4;

// Output pixels of one image, and one group of channels.
struct Part {
  int64_t image, group;
  int64_t row_begin, row_end, column_begin, column_end;

  int64_t width() const { return column_end - column_begin; }
};

template <class Form>
class WideConvolution {
 public:
  WideConvolution(const Kernels& kernels, const Weights& w, const Conv2dShape& s, const float* x, const RowScale* scales,
                  const float* residual, const ImageStrides& residual_strides, float* y,
                  const ImageStrides& y_strides)
      : kernels_(kernels),
        w_(w),
        columns_(w.window),
        s_(s),
        x_(x),
        image_scales_(scales),
        residual_(residual),
        residual_strides_(residual_strides),
        y_(y),
        y_strides_(y_strides),
        scales_(w),
        channels_(s.channels / s.groups),
        group_rows_(s.out_channels / s.groups),
        shared_(w.window.shared && s.dilation_width == 1),
        pixel_columns_(w.window.pixel_columns),
        ring_rows_((s.kernel_height - 1) * s.dilation_height + 1),
        groups_(divide_up(w.window.columns(), Form::kColumns)) {
    strip_ = kMostStrip;
    while (strip_ > kLeastStrip && ring_rows_ * row_bytes(strip_) * passes() > kRingBytes) strip_ /= 2;
    strip_ = std::min(strip_, s.out_width);
  }

  void run(int threads) const {
    const int64_t strips = divide_up(s_.out_width, strip_);
    const int64_t parts = s_.images * s_.groups * strips;
    const int64_t wanted = threads > 1 ? divide_up(kTasksPerThread * threads, parts) : 1;
    const int64_t bands = std::min(wanted, s_.out_height);
    parallel_for(parts * bands, threads, [&](int64_t task) {
      const int64_t band = task % bands, strip = task / bands % strips;
      const int64_t place = task / bands / strips;
      outputs({place / s_.groups, place % s_.groups, s_.out_height * band / bands,
               s_.out_height * (band + 1) / bands, s_.out_width * strip / strips,
               s_.out_width * (strip + 1) / strips});
    });
  }

 private:
  using Input = typename Form::Input;
  using Total = typename Form::Total;
  using Value = std::conditional_t<Form::kParts == 1, float, int32_t>;
  static constexpr int64_t kGroupTables = Form::kColumns / Form::kTableColumns;
  static constexpr int64_t kEntryBytes = Form::kTableBytes / kGroupTables;

  int64_t source_columns(int64_t outputs) const {
    return (outputs - 1) * s_.stride_width + (s_.kernel_width - 1) * s_.dilation_width + 1;
  }

  // Values of a row of the ring, with zeros after them that the last run's filling reads.
  int64_t row_values(int64_t outputs) const {
    const int64_t values = source_columns(outputs) * pixel_columns_;
    return round_up(values, Form::kColumns) + (shared_ ? Form::kColumns : 0);
  }

  // Bytes of a row in the ring, for each pass.
  int64_t row_bytes(int64_t outputs) const {
    const int64_t values = row_values(outputs);
    return shared_ ? values / Form::kColumns * Form::kTableBytes
                   : round_up(values * static_cast<int64_t>(sizeof(Input)), 64);
  }

  // Where P and N are apart there are two kinds of tables, of which the second counts the -1s.
  int passes() const { return Form::kParts == 1 && !scales_.folded ? 2 : 1; }
  float table_pos(int pass) const { return pass ? 0.0f : scales_.w_pos; }
  float table_neg(int pass) const { return pass ? 1.0f : scales_.w_neg; }

  void outputs(const Part& part) const {
    const int64_t slot = row_bytes(part.width()) * (shared_ ? passes() : 1);
    char* ring = scratch_array<char>(Scratch::kRing, ring_rows_ * slot);
    std::vector<int64_t> held(ring_rows_, -1);
    for (int64_t row = part.row_begin; row < part.row_end; row++) {
      for (int64_t tap = 0; tap < s_.kernel_height; tap++) {
        const int64_t source = row * s_.stride_height + tap * s_.dilation_height;
        const int64_t place = source % ring_rows_;
        if (held[place] == source) continue;
        held[place] = source;
        fill(part, source, ring + place * slot);
      }
      row_outputs(part, row, ring, slot);
    }
  }

  // Row `source` of the padded input, to the extent that the part reads it.
  void fill(const Part& part, int64_t source, char* slot) const {
    const int64_t values = row_values(part.width()), columns = source_columns(part.width());
    float* line = reinterpret_cast<float*>(
        scratch_array<char>(Scratch::kLine, values * (sizeof(float) + sizeof(Input))));
    const int64_t first = part.column_begin * s_.stride_width - s_.padding_width;
    const int64_t begin = std::max<int64_t>(0, first), end = std::min(s_.width, first + columns);
    const int64_t y = source - s_.padding_height;
    const RowScale* scale = image_scales_ ? image_scales_ + part.image : nullptr;
    const bool empty = y < 0 || y >= s_.height || begin >= end || (scale && scale->multiplier == 0);
    if (empty) {
      std::fill_n(line, values, 0.0f);
    } else {
      ImageFill f{};
      f.x = x_ + part.image * s_.image_stride + part.group * channels_ * s_.channel_stride +
            y * s_.row_stride + begin * s_.column_stride;
      f.row_stride = s_.row_stride;
      f.column_stride = s_.column_stride;
      f.channel_stride = s_.channel_stride;
      f.rows = 1;
      f.columns = end - begin;
      f.channels = channels_;
      f.left = begin - first;
      f.row_end = 1;
      f.out_columns = columns;
      f.out = line;
      kernels_.fill_float(f);
      spread(line, columns, values);
    }
    const int64_t groups = values / Form::kColumns;
    Input* integers = reinterpret_cast<Input*>(line);
    if constexpr (std::is_same_v<Form, Sextets>) {
      integers = shared_ ? reinterpret_cast<Input*>(line + values) : reinterpret_cast<Input*>(slot);
      if (empty)
        std::fill_n(integers, values, Input{0});
      else
        kernels_.quantize(line, values, scale->multiplier, integers);
    } else if (!shared_) {
      std::memcpy(slot, line, values * sizeof(float));
    }
    if (!shared_) return;
    for (int pass = 0; pass < passes(); pass++)
      Form::tables(kernels_, integers, groups, table_pos(pass), table_neg(pass),
                   slot + pass * groups * Form::kTableBytes);
  }

  // From pixels of all channels to pixels of pixel_columns_, with zeros between and after them.
  void spread(float* line, int64_t pixels, int64_t values) const {
    std::fill(line + pixels * channels_, line + values, 0.0f);
    if (pixel_columns_ == channels_) return;
    for (int64_t i = pixels - 1; i >= 0; i--) {
      float* pixel = line + i * pixel_columns_;
      std::memmove(pixel, line + i * channels_, channels_ * sizeof(float));
      std::fill(pixel + channels_, pixel + pixel_columns_, 0.0f);
    }
  }

  void row_outputs(const Part& part, int64_t row, const char* ring, int64_t slot) const {
    const int64_t width = part.width(), row_begin = part.group * group_rows_;
    const int64_t panel_begin = row_begin / kPanelRows;
    const int64_t panel_end = divide_up(row_begin + group_rows_, kPanelRows);
    const int64_t block_values = width * kBlockRows * Form::kParts;
    Value* values =
        scratch_array<Value>(Scratch::kValues, divide_up(group_rows_, kBlockRows) * block_values);
    const int64_t blocks = divide_up(width, Form::kInputs);
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t first = width * b / blocks;
      const int inputs = static_cast<int>(width * (b + 1) / blocks - first);
      const Total* totals[2] = {};
      for (int pass = 0; pass < passes(); pass++) {
        PanelSums<Form> sums(kernels_, w_.codes, groups_, inputs, panel_begin, panel_end,
                             pass ? Scratch::kSums : Scratch::kTotals);
        if (shared_)
          add_runs(row, first, inputs, ring + pass * row_bytes(width), slot, sums);
        else
          add_windows(row, first, inputs, ring, slot, pass, sums);
        totals[pass] = sums.totals();
      }
      for (int64_t p = panel_begin; p < panel_end; p++)
        for (int m = 0; m < inputs; m++) {
          const int64_t at = ((p - panel_begin) * inputs + m) * PanelSums<Form>::kPanelSums;
          keep(p, row_begin, totals[0] + at, totals[1] ? totals[1] + at : nullptr,
               block_values, values + (first + m) * kBlockRows * Form::kParts);
        }
    }
    for (int64_t r = 0; r < group_rows_; r += kBlockRows)
      finish(part, row, r, values + r / kBlockRows * block_values);
  }

  const char* ring_row(const char* ring, int64_t slot, int64_t row, int64_t tap) const {
    return ring + (row * s_.stride_height + tap * s_.dilation_height) % ring_rows_ * slot;
  }

  // The products of `inputs` windows, from tables in the ring.
  void add_runs(int64_t row, int64_t first, int inputs, const char* ring, int64_t slot,
                PanelSums<Form>& sums) const {
    const int64_t chunk = Form::kChunks[inputs - 1], groups = groups_ / s_.kernel_height;
    const int64_t stride =
        s_.stride_width * pixel_columns_ / Form::kTableColumns * kEntryBytes;
    for (int64_t tap = 0; tap < s_.kernel_height; tap++) {
      const char* tables = ring_row(ring, slot, row, tap) + first * stride;
      for (int64_t g = 0; g < groups; g += chunk)
        sums.add(tables + g * Form::kTableBytes, stride, tap * groups + g,
                 std::min(chunk, groups - g));
    }
  }

  // The same from windows that are put together and have tables of their own.
  void add_windows(int64_t row, int64_t first, int inputs, const char* ring, int64_t slot, int pass,
                   PanelSums<Form>& sums) const {
    const int64_t columns = groups_ * Form::kColumns, chunk = Form::kChunks[inputs - 1];
    Input* windows = scratch_array<Input>(Scratch::kWindows, inputs * columns);
    if (pass == 0)
      for (int m = 0; m < inputs; m++)
        window(row, (first + m) * s_.stride_width, ring, slot, windows + m * columns);
    const int64_t stride = chunk * Form::kTableBytes;
    char* tables = scratch_array<char>(Scratch::kTables, inputs * stride);
    for (int64_t g = 0; g < groups_; g += chunk) {
      const int64_t now = std::min(chunk, groups_ - g);
      for (int m = 0; m < inputs; m++)
        Form::tables(kernels_, windows + m * columns + g * Form::kColumns, now, table_pos(pass),
                     table_neg(pass), tables + m * stride);
      sums.add(tables, stride, g, now);
    }
  }

  // One window in the order of the weights' columns.
  void window(int64_t row, int64_t column, const char* ring, int64_t slot, Input* out) const {
    Input* const begin = out;
    for (int64_t i = 0; i < s_.kernel_height; i++) {
      const Input* source = reinterpret_cast<const Input*>(ring_row(ring, slot, row, i));
      for (int64_t j = 0; j < s_.kernel_width; j++) {
        const Input* pixel = source + (column + j * s_.dilation_width) * pixel_columns_;
        std::memcpy(out + j * pixel_columns_, pixel, pixel_columns_ * sizeof(Input));
      }
      out += s_.kernel_width * pixel_columns_;
      if (!columns_.shared) continue;
      std::fill(out, begin + (i + 1) * columns_.run_columns, Input{0});
      out = begin + (i + 1) * columns_.run_columns;
    }
    std::fill(out, begin + groups_ * Form::kColumns, Input{0});
  }

  // Outputs of one panel that are of the group, from the totals, in blocks of kBlockRows.
  void keep(int64_t panel, int64_t row_begin, const Total* pos, const Total* neg,
            int64_t block_values, Value* values) const {
    const int64_t begin = std::max(row_begin, panel * kPanelRows);
    const int64_t end = std::min(row_begin + group_rows_, (panel + 1) * kPanelRows);
    for (int64_t r = begin, count = 0; r < end; r += count) {
      const int64_t i = r - row_begin, at = r - panel * kPanelRows;
      count = std::min(kBlockRows - i % kBlockRows, end - r);
      Value* place = values + i / kBlockRows * block_values + i % kBlockRows;
      if constexpr (Form::kParts == 1) {
        scales_.apply(w_, r, count, pos + at, neg ? neg + at : nullptr, place);
      } else {
        const int32_t offset = static_cast<int32_t>(groups_) * kSextetOffset;
        for (int64_t k = 0; k < count; k++) {
          place[k] = pos[at + k] - offset;
          place[kBlockRows + k] = pos[kPanelRows + at + k] - offset;
        }
      }
    }
  }

  void finish(const Part& part, int64_t row, int64_t first, const Value* values) const {
    const int64_t out = part.group * group_rows_ + first;
    const auto place = [&](const ImageStrides& strides) {
      return part.image * strides.image + row * strides.row + part.column_begin * strides.pixel +
             out * strides.channel;
    };
    TileFinish f{};
    f.sums = values;
    f.count = part.width();
    f.rows = static_cast<int>(std::min(kBlockRows, group_rows_ - first));
    f.w_pos = w_.scale_pos + out;
    f.w_neg = w_.scale_neg + out;
    f.scale = image_scales_ ? image_scales_[part.image].scale : 1.0f;
    f.bias = w_.bias ? w_.bias + out : nullptr;
    f.residual = residual_ ? residual_ + place(residual_strides_) : nullptr;
    f.residual_pixel = residual_strides_.pixel;
    f.residual_row = residual_strides_.channel;
    f.y = y_ + place(y_strides_);
    f.y_pixel = y_strides_.pixel;
    f.y_row = y_strides_.channel;
    f.relu = w_.relu;
    if constexpr (Form::kParts == 1)
      kernels_.finish_tile_float(f);
    else
      kernels_.finish_tile_byte(f);
  }

  const Kernels& kernels_;
  const Weights& w_;
  WindowColumns columns_;
  const Conv2dShape& s_;
  const float* x_;
  const RowScale* image_scales_;
  const float* residual_;
  ImageStrides residual_strides_;
  float* y_;
  ImageStrides y_strides_;
  TableScales scales_;
  int64_t channels_, group_rows_;
  bool shared_;
  int64_t pixel_columns_;
  int64_t ring_rows_;
  int64_t groups_;  // of columns
  int64_t strip_;
};

}  // namespace

void wide_conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
                 const float* x, const RowScale* scales, const float* residual,
                 const ImageStrides& residual_strides, float* y, const ImageStrides& y_strides,
                 int threads) {
  if (weights.quantized)
    WideConvolution<Sextets>(kernels, weights, shape, x, scales, residual, residual_strides, y,
                             y_strides)
        .run(threads);
  else
    WideConvolution<Triples>(kernels, weights, shape, x, nullptr, residual, residual_strides, y,
                             y_strides)
        .run(threads);
}

}  // namespace ttq
