// The kernels for AVX2. The panel kernels look up by vpshufb.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "simd_x86.h"

#define VECTOR_BYTES 32

namespace ttq::avx2 {

#include "common_kernels.h"
#include "panel_float_avx2.h"
#include "panel_short_avx2.h"

static const Kernels kKernels = {
    "avx2",
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

}  // namespace ttq::avx2

const ttq::Kernels* ttq::avx2_kernels() { return &avx2::kKernels; }
#else
const ttq::Kernels* ttq::avx2_kernels() { return nullptr; }
#endif
