#include "linear_panel.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "layout.h"
#include "linear_rows.h"
#include "parallel.h"

namespace ttq {
namespace {

// Input rows that the panel kernels take at once: their tables stay in the near caches.
constexpr int64_t kPanelInputs = 16;
// What fixed-point activations may lose of a row's outputs, as norms; else float sums serve. The
// rest of the 1e-5 that is promised covers the rounding of outputs.
constexpr double kLargestLoss = 8e-6;

enum class Form { kFloat, kFixed, kShort };

// How tables lie and how many groups a kernel takes at once.
struct FormSizes {
  int64_t table_bytes, chunk;
};

FormSizes sizes_of(Form form, const Kernels& kernels) {
  switch (form) {
    case Form::kFloat: return {kPanelTableBytes, kPanelFloatGroups};
    case Form::kFixed: return {kFixedTableBytes, kFixedChunk};
    default: return {kernels.short_table_bytes, kPanelShortGroups};
  }
}

int64_t panels_of(const Weights& weights) { return divide_up(weights.rows, kPanelRows); }

// A few input rows as tables.
class PanelInputs {
 public:
  PanelInputs(const Kernels& kernels, Form form, const float* x, int64_t count, int64_t columns)
      : kernels_(kernels),
        form_(form),
        count_(count),
        depth_(divide_up(columns, 4)),
        sizes_(sizes_of(form, kernels)) {
    row_bytes_ = (depth_ + depth_ % 2) * sizes_.table_bytes;
    tables_ = scratch_array<uint8_t>(Scratch::kTables, count * row_bytes_);
    scales_ = scratch_array<double>(Scratch::kPlaces, 2 * count);
    if (form == Form::kFixed)
      chunks_ = scratch_array<FixedChunk>(Scratch::kQuantized, count * chunks());
    for (int64_t m = 0; m < count; m++) build(x + m * columns, columns, m);
  }

  int64_t count() const { return count_; }

  // Sum of |x - what stands for it| over an input row, of fixed-point ones.
  double lost(int64_t m) const { return scales_[m]; }

  // scale_pos P - scale_neg N of one panel for every input row: values [input][kPanelRows]. Fills
  // squares[input] where activations are fixed-point.
  void sum(const Weights& w, int64_t panel, float* values, FixedSquares* squares) const {
    switch (form_) {
      case Form::kFloat: return sum_floats(w, panel, values);
      case Form::kFixed: return sum_fixed(w, panel, values, squares);
      case Form::kShort: return sum_ints(w, panel, values);
    }
  }

 private:
  int64_t chunks() const { return divide_up(depth_, sizes_.chunk); }
  const uint8_t* tables(int64_t m, int64_t group) const {
    return tables_ + m * row_bytes_ + group * sizes_.table_bytes;
  }

  void build(const float* x, int64_t columns, int64_t m) {
    uint8_t* tables = tables_ + m * row_bytes_;
    const int64_t width = 4 * depth_;
    if (form_ == Form::kFixed) {
      scales_[m] = 0;
      for (int64_t c = 0; c < chunks(); c++) {
        const int64_t begin = 4 * c * sizes_.chunk;
        FixedChunk& chunk = chunks_[m * chunks() + c];
        chunk = kernels_.fixed_tables(x + begin, std::min(4 * sizes_.chunk, columns - begin),
                                      tables + begin / 4 * sizes_.table_bytes);
        scales_[m] += chunk.lost;
      }
    } else if (form_ == Form::kShort) {
      int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, width);
      scales_[m] = quantize_row(kernels_, x, columns, integers);
      std::fill(integers + columns, integers + width, int16_t{0});
      kernels_.panel_tables_short(integers, depth_, tables);
    } else {
      if (width != columns) {
        float* copy = scratch_array<float>(Scratch::kSource, width);
        std::copy_n(x, columns, copy);
        std::fill(copy + columns, copy + width, 0.0f);
        x = copy;
      }
      kernels_.panel_tables_float(x, depth_, tables);
    }
  }

  // Calls body(input row, first group, groups, codes) for every chunk of a panel and input row.
  template <class Body>
  void for_chunks(const Weights& w, int64_t panel, const Body& body) const {
    const int64_t first = panel * kPanelRows;
    const int64_t width = std::min<int64_t>(kPanelRows, w.rows - first);
    const uint8_t* codes = w.codes + first * depth_;
    for (int64_t g = 0; g < depth_; g += sizes_.chunk) {
      const int64_t groups = std::min(sizes_.chunk, depth_ - g);
      const uint8_t* wide = full_width(codes + g * width, width, groups);
      for (int64_t m = 0; m < count_; m++) body(m, g, groups, wide);
    }
  }

  // A narrow panel's bytes spread to the width that the kernels take.
  static const uint8_t* full_width(const uint8_t* codes, int64_t width, int64_t groups) {
    if (width == kPanelRows) return codes;
    uint8_t* wide = scratch_array<uint8_t>(Scratch::kPanel, kPanelShortGroups * kPanelRows);
    for (int64_t g = 0; g < groups; g++) {
      std::copy_n(codes + g * width, width, wide + g * kPanelRows);
      std::fill(wide + g * kPanelRows + width, wide + (g + 1) * kPanelRows, uint8_t{0});
    }
    return wide;
  }

  static int64_t width_of(const Weights& w, int64_t panel) {
    return std::min<int64_t>(kPanelRows, w.rows - panel * kPanelRows);
  }

  void sum_fixed(const Weights& w, int64_t panel, float* values, FixedSquares* squares) const {
    double sums[kPanelInputs][2][kPanelRows];
    std::memset(sums, 0, count_ * sizeof sums[0]);
    for_chunks(w, panel, [&](int64_t m, int64_t g, int64_t groups, const uint8_t* codes) {
      kernels_.panel_fixed(tables(m, g), codes, groups, chunks_[m * chunks() + g / sizes_.chunk],
                           sums[m][0], sums[m][1]);
    });
    const int64_t first = panel * kPanelRows;
    for (int64_t m = 0; m < count_; m++)
      squares[m] = kernels_.fixed_values(sums[m][0], sums[m][1], w.scale_pos + first,
                                         w.scale_neg + first, width_of(w, panel),
                                         values + m * kPanelRows);
  }

  void sum_floats(const Weights& w, int64_t panel, float* values) const {
    double sums[kPanelInputs][2][kPanelRows] = {};
    for_chunks(w, panel, [&](int64_t m, int64_t g, int64_t groups, const uint8_t* codes) {
      float p[kPanelRows], n[kPanelRows];
      kernels_.panel_float(tables(m, g), codes, groups, p, n);
      for (int r = 0; r < kPanelRows; r++) {
        sums[m][0][r] += p[r];
        sums[m][1][r] += n[r];
      }
    });
    const int64_t first = panel * kPanelRows, width = width_of(w, panel);
    for (int64_t m = 0; m < count_; m++)
      for (int64_t r = 0; r < width; r++)
        values[m * kPanelRows + r] = static_cast<float>(w.scale_pos[first + r] * sums[m][0][r] -
                                                        w.scale_neg[first + r] * sums[m][1][r]);
  }

  void sum_ints(const Weights& w, int64_t panel, float* values) const {
    int32_t pos[kPanelInputs][kPanelRows], neg[kPanelInputs][kPanelRows];
    for_chunks(w, panel, [&](int64_t m, int64_t g, int64_t groups, const uint8_t* codes) {
      if (g == 0) {
        kernels_.panel_short(tables(m, g), codes, groups, pos[m], neg[m]);
        return;
      }
      int32_t p[kPanelRows], n[kPanelRows];
      kernels_.panel_short(tables(m, g), codes, groups, p, n);
      for (int r = 0; r < kPanelRows; r++) {
        pos[m][r] += p[r];
        neg[m][r] += n[r];
      }
    });
    const int64_t first = panel * kPanelRows, width = width_of(w, panel);
    for (int64_t m = 0; m < count_; m++) {
      const float scale = static_cast<float>(scales_[m]);
      for (int64_t r = 0; r < width; r++)
        values[m * kPanelRows + r] =
            scale * (w.scale_pos[first + r] * static_cast<float>(pos[m][r]) -
                     w.scale_neg[first + r] * static_cast<float>(neg[m][r]));
    }
  }

  const Kernels& kernels_;
  Form form_;
  int64_t count_, depth_;
  FormSizes sizes_;
  int64_t row_bytes_;
  uint8_t* tables_;
  double* scales_;  // of quantized input rows; what fixed-point ones lose
  FixedChunk* chunks_ = nullptr;
};

// The panels of several matrices one after the other.
class Panels {
 public:
  Panels(const Weights* weights, const Output* outputs, int matrices)
      : weights_(weights), outputs_(outputs) {
    for (int i = 0; i < matrices; i++) total_ += panels_of(weights[i]);
  }

  int64_t total() const { return total_; }

  // Panels [begin, end) for every input row; fills squares[panel][input] where not null.
  void run(const PanelInputs& inputs, int64_t begin, int64_t end, FixedSquares* squares) const {
    int i = 0;
    int64_t before = 0;  // panels of the matrices before i
    for (int64_t p = begin; p < end; p++) {
      while (p - before >= panels_of(weights_[i])) before += panels_of(weights_[i++]);
      const Weights& w = weights_[i];
      const Output& out = outputs_[i];
      const int64_t panel = p - before, first = panel * kPanelRows;
      float values[kPanelInputs * kPanelRows];
      inputs.sum(w, panel, values, squares ? squares + p * inputs.count() : nullptr);
      for (int64_t m = 0; m < inputs.count(); m++) {
        const int64_t place = m * out.stride + first;
        finish_rows(values + m * kPanelRows, w, first, std::min<int64_t>(kPanelRows, w.rows - first),
                    out.residual ? out.residual + place : nullptr, out.y + place);
      }
    }
  }

 private:
  const Weights* weights_;
  const Output* outputs_;
  int64_t total_ = 0;
};

Output from_row(const Output& output, int64_t m) {
  return {output.residual ? output.residual + m * output.stride : nullptr,
          output.y + m * output.stride, output.stride};
}

void run_panels(const Kernels& kernels, Form form, const Weights* weights, const Output* outputs,
                int matrices, const float* x, int64_t count, int threads) {
  const Panels panels(weights, outputs, matrices);
  const PanelInputs inputs(kernels, form, x, count, weights->columns);
  FixedSquares* squares = form == Form::kFixed
                         ? scratch_array<FixedSquares>(Scratch::kSums, panels.total() * count)
                         : nullptr;
  // Runs of panels, which a core reads in order; some more than threads, so that one that is held
  // up does not hold up all.
  const int64_t parts = std::min<int64_t>(threads > 1 ? 4 * threads : 1, panels.total());
  parallel_for(parts, threads, [&](int64_t part) {
    panels.run(inputs, panels.total() * part / parts, panels.total() * (part + 1) / parts, squares);
  });
  if (form != Form::kFixed) return;
  // The losses, before the scratch is used again.
  double losses[kPanelInputs];
  for (int64_t m = 0; m < count; m++) losses[m] = inputs.lost(m);
  std::vector<std::pair<int, int64_t>> again;
  int64_t p = 0;
  for (int i = 0; i < matrices; i++) {
    const int64_t end = p + panels_of(weights[i]);
    for (int64_t m = 0; m < count; m++) {
      FixedSquares all{0, 0};
      for (int64_t q = p; q < end; q++) {
        all.outputs += squares[q * count + m].outputs;
        all.weights += squares[q * count + m].weights;
      }
      if (losses[m] * losses[m] * all.weights > kLargestLoss * kLargestLoss * all.outputs)
        again.emplace_back(i, m);
    }
    p = end;
  }
  for (const auto& [i, m] : again) {
    const Output output = from_row(outputs[i], m);
    run_panels(kernels, Form::kFloat, weights + i, &output, 1, x + m * weights->columns, 1,
               threads);
  }
}

}  // namespace

void panel_linear(const Kernels& kernels, const Weights* weights, const Output* outputs,
                  int matrices, const float* x, int64_t count, int threads) {
  const Form form = weights->quantized     ? Form::kShort
                    : kernels.panel_fixed ? Form::kFixed
                                          : Form::kFloat;
  const int64_t blocks = divide_up(count, kPanelInputs);
  // With enough blocks of input rows each thread builds the tables of its own.
  const bool apart = blocks >= 2 * threads;
  parallel_for(blocks, apart ? threads : 1, [&](int64_t block) {
    const int64_t m = block * kPanelInputs;
    std::vector<Output> from;
    for (int i = 0; i < matrices; i++) from.push_back(from_row(outputs[i], m));
    run_panels(kernels, form, weights, from.data(), matrices, x + m * weights->columns,
               std::min(kPanelInputs, count - m), apart ? 1 : threads);
  });
}

}  // namespace ttq
