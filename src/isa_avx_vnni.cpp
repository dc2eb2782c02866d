// The kernels for AVX-VNNI: AVX2's, with byte dot products for int8 activations.
#include "kernels.h"

#if defined(__AVXVNNI__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 32
#ifdef TTQ_EMULATE
#define DOT_BYTES simde_mm256_dpbusd_epi32
#else
#define DOT_BYTES _mm256_dpbusd_avx_epi32
#endif

namespace ttq::avx_vnni {

#include "common_kernels.h"
#include "panel_float_avx2.h"
#include "panel_short_vnni.h"

static const Kernels kKernels = {
    "avx-vnni",
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
    panel_tables_vnni,
    panel_float,
    panel_short_vnni,
    dense_rows,
};

}  // namespace ttq::avx_vnni

const ttq::Kernels* ttq::avx_vnni_kernels() { return &avx_vnni::kKernels; }
#else
const ttq::Kernels* ttq::avx_vnni_kernels() { return nullptr; }
#endif
