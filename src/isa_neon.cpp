// The kernels for NEON (AArch64).
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define VECTOR_BYTES 16
#define TTQ_NEON

namespace ttq::neon {

#include "common_kernels.h"
#include "subset_sums.h"
#include "panel_neon.h"
#include "panel_short_neon.h"
#include "tile_byte_neon.h"
#include "tile_byte.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("neon", 10, kNever);
  kernels.panel_tables_float = panel_tables_float;
  kernels.panel_tables_short = panel_tables_short;
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short;
  set_tile_byte(kernels);
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::neon

const ttq::Kernels* ttq::neon_kernels() { return &neon::kKernels; }
#else
const ttq::Kernels* ttq::neon_kernels() { return nullptr; }
#endif
