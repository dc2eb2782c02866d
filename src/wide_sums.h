// Sums of panels in a wide layout (layout.h), for the drivers of linear layers and convolutions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "layout.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {

// What differs between the two layouts: float tables with the scales folded in, integer tables.
// kChunks: groups of a chunk of columns by the number of input rows. Its tables share a 32 KiB
// first-level cache with a panel's codes and the next panel's; triples end a run with a chunk, and
// sextets add three groups at a time.
struct Triples {
  using Input = float;
  using Sum = float;
  using Total = double;
  static constexpr int kInputs = kTripleInputs, kColumns = kTripleColumns, kParts = 1;
  static constexpr int kTableColumns = 3;
  static constexpr int64_t kCodeBytes = kTripleBytes, kTableBytes = kTripleTableBytes;
  static constexpr int64_t kRun = kTripleRun;
  static constexpr int64_t kChunks[kInputs] = {21, 10, 7, 7};

  static void sums(const Kernels& kernels, const WidePanel& panel, float* sums) {
    kernels.triple_sums(panel, sums);
  }
  static void tables(const Kernels& kernels, const float* x, int64_t groups, float w_pos,
                     float w_neg, void* tables) {
    kernels.triple_tables(x, groups, w_pos, w_neg, tables);
  }
};

struct Sextets {
  using Input = int16_t;
  using Sum = int32_t;
  using Total = int32_t;
  static constexpr int kInputs = kSextetInputs, kColumns = kSextetColumns, kParts = 2;
  static constexpr int kTableColumns = 6;
  static constexpr int64_t kCodeBytes = kSextetBytes, kTableBytes = kSextetTableBytes;
  static constexpr int64_t kRun = kSextetRun;
  static constexpr int64_t kChunks[kInputs] = {48, 33};

  static void sums(const Kernels& kernels, const WidePanel& panel, int32_t* sums) {
    kernels.sextet_sums(panel, sums);
  }
  static void tables(const Kernels& kernels, const int16_t* x, int64_t groups, float, float,
                     void* tables) {
    kernels.sextet_tables(x, groups, tables);
  }
};

// The sums of a few inputs over a range of panels, [panel][input][kPanelSums], from tables that are
// added chunk of columns by chunk, so that they stay in the first-level cache, through which the
// codes of all panels stream. Float sums go to float64 after a run; integers are exact as they are.
template <class Form>
class PanelSums {
 public:
  using Sum = typename Form::Sum;
  using Total = typename Form::Total;
  static constexpr int64_t kPanelSums = Form::kParts * kPanelRows;

  // `groups`: of all columns. `use` keeps the totals, kPanel the running sums.
  PanelSums(const Kernels& kernels, const uint8_t* codes, int64_t groups, int inputs,
            int64_t panel_begin, int64_t panel_end, Scratch use)
      : kernels_(kernels),
        codes_(codes),
        groups_(groups),
        inputs_(inputs),
        begin_(panel_begin),
        end_(panel_end),
        count_((panel_end - panel_begin) * inputs * kPanelSums) {
    totals_ = scratch_array<Total>(use, count_);
    std::fill_n(totals_, count_, Total{0});
    if constexpr (kApart) {
      sums_ = scratch_array<Sum>(Scratch::kPanel, count_);
      std::fill_n(sums_, count_, Sum{0});
    } else {
      sums_ = totals_;
    }
  }

  // Groups [first, first + count), at most kChunks of them; the tables of input m begin at
  // tables + m * stride.
  void add(const char* tables, int64_t stride, int64_t first, int64_t count) {
    if (run_ + count > Form::kRun) take_over();
    run_ += count;
    for (int64_t p = begin_; p < end_; p++) {
      const uint8_t* next = p + 1 < end_ ? codes(p + 1, first) : codes(begin_, first + count);
      Form::sums(kernels_, {tables, stride, inputs_, codes(p, first), count, next},
                 sums_ + (p - begin_) * inputs_ * kPanelSums);
    }
  }

  const Total* totals() {
    take_over();
    return totals_;
  }

 private:
  static constexpr bool kApart = !std::is_same_v<Sum, Total>;

  const uint8_t* codes(int64_t panel, int64_t group) const {
    return codes_ + (panel * groups_ + group) * Form::kCodeBytes;
  }

  void take_over() {
    if constexpr (kApart) {
      if (run_) kernels_.triple_totals(sums_, count_, totals_);
    }
    run_ = 0;
  }

  const Kernels& kernels_;
  const uint8_t* codes_;
  int64_t groups_;
  int inputs_;
  int64_t begin_, end_, count_;
  int64_t run_ = 0;
  Total* totals_;
  Sum* sums_;
};

// The scales that go into float tables. Where all rows have the same ratio of the two, one pass
// serves them all, and each row's sum is multiplied by its factor: so it is where a batch norm was
// folded into scales that a layer shares. Else P and N are summed apart.
struct TableScales {
  explicit TableScales(const Weights& weights);

  // Outputs of `count` rows from `row` on, from their totals; `neg`, from tables with the scales 0
  // and 1, only where the scales are not folded.
  void apply(const Weights& weights, int64_t row, int64_t count, const double* pos,
             const double* neg, float* values) const;

  bool folded;
  float w_pos = 1, w_neg = 0;
  const float* factors = nullptr;  // [rows], or null where all are 1; in the thread's scratch
};

}  // namespace ttq
