// Which kernels this CPU can run.
#include "operators.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace ttq {

const char* const kKnownNames[] = {"avx512", "avx512-plain", "avx2",    "avx-vnni",
                                   "neon",   "neon-dotprod", "portable"};
const int kKnownCount = 7;

namespace {

bool has_avx2() {
#if defined(TTQ_EMULATE)
  return false;  // is not emulated
#elif defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx_vnni() {
#if defined(TTQ_EMULATE)
  return true;
#elif defined(__x86_64__)
  if (!has_avx2()) return false;
  // CPUID leaf 7, subleaf 1, EAX bit 4; older compilers have no name for it.
  unsigned a = 7, b, c = 1, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return a >> 4 & 1;
#else
  return false;
#endif
}

bool has_avx512_plain() {
#if defined(TTQ_EMULATE)
  return true;
#elif defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(TTQ_EMULATE)
  return true;
#elif defined(__x86_64__)
  return has_avx512_plain() && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool has_neon_dotprod() {
#if defined(__aarch64__) && defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__aarch64__) && defined(__APPLE__)
  return true;  // every Apple silicon
#else
  return false;
#endif
}

}  // namespace

int usable_kernels(const Kernels** found, int capacity) {
  const Kernels* candidates[] = {
      // By instruction counts the byte shuffles of AVX2 and NEON beat the dot products, which are
      // there to be asked for by name.
      has_avx512() ? avx512_kernels() : nullptr,
      has_avx512_plain() ? avx512_plain_kernels() : nullptr,
      has_avx2() ? avx2_kernels() : nullptr,
      has_avx_vnni() ? avx_vnni_kernels() : nullptr,
      neon_kernels(),
      has_neon_dotprod() ? neon_dotprod_kernels() : nullptr,
      portable_kernels(),
  };
  int count = 0;
  for (const Kernels* kernels : candidates)
    if (kernels && count < capacity) found[count++] = kernels;
  return count;
}

}  // namespace ttq
