// The kernels for NEON (AArch64).
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define VECTOR_BYTES 16

namespace ttq::neon {

#include "common_kernels.h"
#include "subset_sums.h"
#include "panel_neon.h"
#include "panel_short_neon.h"

static const Kernels kKernels = {
    "neon",
    VECTOR_BYTES,
    10,
    kNever,
    largest,
    quantize,
    lane_tables<float>,
    lane_tables<int16_t>,
    lane_lookup_float,
    lane_lookup_short,
    finish_float,
    finish_int,
    panel_tables_float,
    panel_tables_short,
    panel_float,
    panel_short,
    dense_rows,
};

}  // namespace ttq::neon

const ttq::Kernels* ttq::neon_kernels() { return &neon::kKernels; }
#else
const ttq::Kernels* ttq::neon_kernels() { return nullptr; }
#endif
