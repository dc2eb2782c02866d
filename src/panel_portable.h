// Panel kernels in plain C++, for instruction sets without a byte shuffle worth using.
// Included by isa_*.cpp inside its own namespace.

#include "subset_sums.h"

template <class T>
static void panel_tables(const T* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    T* table = reinterpret_cast<T*>(static_cast<uint8_t*>(tables) + g * kPanelTableBytes);
    subset_sums(x + 4 * g, table);
  }
}

template <class T, class Sum>
static void panel(const void* tables, const uint8_t* codes, int64_t groups, Sum* pos, Sum* neg) {
  for (int r = 0; r < kPanelRows; r++) pos[r] = neg[r] = 0;
  for (int64_t g = 0; g < groups; g++) {
    const T* table =
        reinterpret_cast<const T*>(static_cast<const uint8_t*>(tables) + g * kPanelTableBytes);
    for (int r = 0; r < kPanelRows; r++) {
      pos[r] += table[codes[r] & 15];
      neg[r] += table[codes[r] >> 4];
    }
    codes += kPanelRows;
  }
}
