// The kernels for AVX-512 with VNNI's generation of instructions: F, BW, DQ, VL and VBMI.
#include "kernels.h"

#if defined(__AVX512VBMI__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 64

namespace ttq::avx512 {

#include "common_kernels.h"
#include "panel_avx512.h"
#include "panel_sextets.h"
#include "panel_triples.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("avx512", 10, 48);
  kernels.panel_tables_float = panel_tables_plain;
  kernels.panel_tables_short = panel_tables_short;
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short;
  kernels.triple_tables = triple_tables;
  kernels.triple_sums = triple_sums;
  kernels.triple_totals = triple_totals;
  kernels.sextet_tables = sextet_tables;
  kernels.sextet_sums = sextet_sums;
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::avx512

const ttq::Kernels* ttq::avx512_kernels() { return &avx512::kKernels; }
#else
const ttq::Kernels* ttq::avx512_kernels() { return nullptr; }
#endif
