// The kernels in plain C++, for any CPU.
#include "kernels.h"

#define VECTOR_BYTES 16

namespace ttq::portable {

#include "common_kernels.h"
#include "panel_portable.h"
#include "tile_byte_portable.h"
#include "tile_byte.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("portable", 2, 2);
  kernels.panel_tables_float = panel_tables<float>;
  kernels.panel_tables_short = panel_tables<int16_t>;
  kernels.panel_float = panel<float, float>;
  kernels.panel_short = panel<int16_t, int32_t>;
  set_tile_byte(kernels);
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::portable

const ttq::Kernels* ttq::portable_kernels() { return &portable::kKernels; }
