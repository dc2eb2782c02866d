#include "linear_wide.h"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "layout.h"
#include "linear_rows.h"
#include "parallel.h"

namespace ttq {
namespace {

// Tables of all columns that a thread keeps for its next range of panels: they fit the second-level
// cache, from which a chunk comes again at less cost than building it.
constexpr int64_t kKeptBytes = 256 << 10;

// What differs between the two layouts: float tables with the scales folded in, integer tables.
// kChunks: groups of a chunk of columns by the number of input rows. Its tables share a 32 KiB
// first-level cache with a panel's codes and the next panel's; triples end a run with a chunk, and
// sextets add three groups at a time.
struct Triples {
  using Input = float;
  using Sum = float;
  using Total = double;
  static constexpr int kInputs = kTripleInputs, kColumns = kTripleColumns, kParts = 1;
  static constexpr int64_t kCodeBytes = kTripleBytes, kTableBytes = kTripleTableBytes;
  static constexpr int64_t kRun = kTripleRun;
  static constexpr int64_t kChunks[kInputs] = {21, 10, 7, 7};

  static void sums(const Kernels& kernels, const WidePanel& panel, float* sums) {
    kernels.triple_sums(panel, sums);
  }
};

struct Sextets {
  using Input = int16_t;
  using Sum = int32_t;
  using Total = int32_t;
  static constexpr int kInputs = kSextetInputs, kColumns = kSextetColumns, kParts = 2;
  static constexpr int64_t kCodeBytes = kSextetBytes, kTableBytes = kSextetTableBytes;
  static constexpr int64_t kRun = kSextetRun;
  static constexpr int64_t kChunks[kInputs] = {48, 33};

  static void sums(const Kernels& kernels, const WidePanel& panel, int32_t* sums) {
    kernels.sextet_sums(panel, sums);
  }
};

// Whether one value serves all rows.
bool uniform(const float* scales, int64_t rows) {
  return std::all_of(scales, scales + rows, [&](float s) { return s == scales[0]; });
}

// A few input rows against a range of panels. Chunk of columns by chunk, so that its tables stay
// in the first-level cache, through which the codes of all panels stream.
template <class Form>
class Block {
 public:
  using Input = typename Form::Input;
  using Sum = typename Form::Sum;
  using Total = typename Form::Total;
  static constexpr int64_t kPanelSums = Form::kParts * kPanelRows;

  Block(const Kernels& kernels, const Weights& weights, const Input* x, int64_t input_stride,
        int inputs, int64_t panel_begin, int64_t panel_end, int64_t id)
      : kernels_(kernels),
        w_(weights),
        x_(x),
        input_stride_(input_stride),
        inputs_(inputs),
        begin_(panel_begin),
        end_(panel_end),
        id_(id),
        groups_(groups_of(weights.columns, Form::kColumns)) {}

  // Totals [panel][input][kPanelSums] of all columns, from tables with these scales.
  const Total* sum(float w_pos, float w_neg, Scratch use) {
    const int64_t chunk = Form::kChunks[inputs_ - 1];
    const bool keep = id_ && groups_ * inputs_ * Form::kTableBytes <= kKeptBytes;
    const int64_t stride = (keep ? groups_ : chunk) * Form::kTableBytes;
    char* scratch_tables = scratch_array<char>(Scratch::kTables, inputs_ * stride);
    static thread_local int64_t kept_tables = 0;  // whose tables this thread holds
    const int64_t wanted = 2 * id_ + (use == Scratch::kSums);
    const bool built = keep && kept_tables == wanted;
    kept_tables = keep ? wanted : 0;
    const int64_t panel_sums = inputs_ * kPanelSums, count = (end_ - begin_) * panel_sums;
    Total* totals = scratch_array<Total>(use, count);
    std::fill_n(totals, count, Total{0});
    Sum* sums = running_sums(totals, count);
    int64_t run = 0;
    for (int64_t g = 0; g < groups_; g += chunk) {
      const int64_t now = std::min(chunk, groups_ - g);
      char* tables = scratch_tables + (keep ? g * Form::kTableBytes : 0);
      for (int m = 0; m < inputs_ && !built; m++)
        build(m, g, now, w_pos, w_neg, tables + m * stride);
      for (int64_t p = begin_; p < end_; p++) {
        const uint8_t* next = p + 1 < end_ ? codes(p + 1, g) : codes(begin_, g + now);
        Form::sums(kernels_,
                   {tables, stride, inputs_, codes(p, g), now, next},
                   sums + (p - begin_) * panel_sums);
      }
      run += now;
      if (run + chunk > Form::kRun || g + now == groups_) {
        take_over(sums, count, totals);
        run = 0;
      }
    }
    return totals;
  }

 private:
  const uint8_t* codes(int64_t panel, int64_t group) const {
    return w_.codes + (panel * groups_ + group) * Form::kCodeBytes;
  }

  // Tables of groups [first, first + count) of input m; columns past the last count as zeros.
  void build(int m, int64_t first, int64_t count, float w_pos, float w_neg, void* tables) const {
    const int64_t begin = first * Form::kColumns, width = count * Form::kColumns;
    const Input* x = x_ + m * input_stride_ + begin;
    Input padded[Form::kChunks[0] * Form::kColumns];
    if (begin + width > w_.columns) {
      std::copy_n(x, w_.columns - begin, padded);
      std::fill(padded + w_.columns - begin, padded + width, Input{0});
      x = padded;
    }
    if constexpr (std::is_same_v<Form, Triples>)
      kernels_.triple_tables(x, count, w_pos, w_neg, tables);
    else
      kernels_.sextet_tables(x, count, tables);
  }

  // Float sums are kept apart and go to float64 after a run; integers are exact as they are.
  static Sum* running_sums(Total* totals, int64_t count) {
    if constexpr (std::is_same_v<Sum, Total>) {
      return totals;
    } else {
      Sum* sums = scratch_array<Sum>(Scratch::kPanel, count);
      std::fill_n(sums, count, Sum{0});
      return sums;
    }
  }

  void take_over(Sum* sums, int64_t count, Total* totals) const {
    if constexpr (!std::is_same_v<Sum, Total>) kernels_.triple_totals(sums, count, totals);
  }

  const Kernels& kernels_;
  const Weights& w_;
  const Input* x_;
  int64_t input_stride_;
  int inputs_;
  int64_t begin_, end_;
  int64_t id_;  // of these input rows, for no others ever; 0 where one range of panels is all
  int64_t groups_;
};

// Splits blocks of input rows and ranges of panels among the threads; calls
// body(first input row, inputs, panel begin, panel end, id of the block of input rows).
template <class Form, class Body>
void for_blocks(int64_t count, int64_t panels, int threads, const Body& body) {
  static std::atomic<int64_t> next_id{1};
  const int64_t blocks = groups_of(count, Form::kInputs);
  const int64_t id = next_id.fetch_add(blocks);
  // Some more parts than threads, so that one that is held up does not hold up all.
  const int64_t wanted = threads > 1 ? groups_of(4 * threads, blocks) : 1;
  const int64_t parts = std::min(wanted, panels);
  parallel_for(blocks * parts, threads, [&](int64_t task) {
    const int64_t block = task / parts, part = task % parts, first = block * Form::kInputs;
    body(first, static_cast<int>(std::min<int64_t>(Form::kInputs, count - first)),
         panels * part / parts, panels * (part + 1) / parts, parts > 1 ? id + block : 0);
  });
}

void triples_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                    const float* residual, float* y, int threads) {
  const int64_t panels = wide_panels(w.layout, w.rows, w.columns);
  // One table serves all rows where they share their scales; else P and N are summed apart.
  const bool folded = uniform(w.scale_pos, w.rows) && uniform(w.scale_neg, w.rows);
  for_blocks<Triples>(count, panels, threads, [&](int64_t first, int inputs, int64_t begin,
                                                  int64_t end, int64_t id) {
    Block<Triples> block(kernels, w, x + first * w.columns, w.columns, inputs, begin, end, id);
    const double* pos = folded ? block.sum(w.scale_pos[0], w.scale_neg[0], Scratch::kTotals)
                               : block.sum(1, 0, Scratch::kTotals);
    const double* neg = folded ? nullptr : block.sum(0, 1, Scratch::kSums);
    for (int64_t p = begin; p < end; p++)
      for (int m = 0; m < inputs; m++) {
        const int64_t at = ((p - begin) * inputs + m) * kPanelRows, row = p * kPanelRows;
        const int64_t place = (first + m) * w.rows + row;
        const int64_t width = std::min<int64_t>(kPanelRows, w.rows - row);
        float values[kPanelRows];
        for (int64_t r = 0; r < width; r++)
          values[r] = static_cast<float>(
              folded ? pos[at + r]
                     : w.scale_pos[row + r] * pos[at + r] + w.scale_neg[row + r] * neg[at + r]);
        finish_rows(values, w, row, width, residual ? residual + place : nullptr, y + place);
      }
  });
}

void sextets_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                    const float* residual, float* y, int threads) {
  const int64_t panels = wide_panels(w.layout, w.rows, w.columns);
  const int32_t offset =
      static_cast<int32_t>(groups_of(w.columns, kSextetColumns)) * kSextetOffset;
  // Some rows at a time, so that their integers stay in the second-level cache.
  constexpr int64_t kRowsAtOnce = 256;
  for (int64_t m0 = 0; m0 < count; m0 += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, count - m0);
    int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, rows * w.columns);
    float scales[kRowsAtOnce];
    parallel_for(groups_of(rows, 8), rows > 8 ? threads : 1, [&](int64_t task) {
      for (int64_t m = 8 * task; m < std::min<int64_t>(rows, 8 * task + 8); m++)
        scales[m] = quantize_row(kernels, x + (m0 + m) * w.columns, w.columns,
                                 integers + m * w.columns);
    });
    for_blocks<Sextets>(rows, panels, threads, [&](int64_t first, int inputs, int64_t begin,
                                                   int64_t end, int64_t id) {
      Block<Sextets> block(kernels, w, integers + first * w.columns, w.columns, inputs, begin, end,
                           id);
      const int32_t* totals = block.sum(0, 0, Scratch::kSums);
      for (int64_t p = begin; p < end; p++)
        for (int m = 0; m < inputs; m++) {
          const int32_t* pos = totals + ((p - begin) * inputs + m) * 2 * kPanelRows;
          const int32_t* neg = pos + kPanelRows;
          const int64_t row = p * kPanelRows, place = (m0 + first + m) * w.rows + row;
          const int64_t width = std::min<int64_t>(kPanelRows, w.rows - row);
          float values[kPanelRows];
          for (int64_t r = 0; r < width; r++)
            values[r] = scales[first + m] *
                        (w.scale_pos[row + r] * static_cast<float>(pos[r] - offset) -
                         w.scale_neg[row + r] * static_cast<float>(neg[r] - offset));
          finish_rows(values, w, row, width, residual ? residual + place : nullptr, y + place);
        }
    });
  }
}

}  // namespace

void wide_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                 const float* residual, float* y, int threads) {
  if (weights.quantized)
    sextets_linear(kernels, weights, x, count, residual, y, threads);
  else
    triples_linear(kernels, weights, x, count, residual, y, threads);
}

}  // namespace ttq
