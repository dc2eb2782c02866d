// Sums of bytes that outgrow a byte. Included by isa_*.cpp inside its own namespace.
#pragma once

// 16-bit sums of bytes: of odd ones, and of all as pairs, in which the odd count 256-fold. Shifts are
// multiplications' high halves, for which processors have other ports than for shuffles.
struct WideSums {
  __m256i pairs, odd;

  inline void add(__m256i bytes) {
    pairs = _mm256_add_epi16(pairs, bytes);
    odd = _mm256_add_epi16(odd, _mm256_mulhi_epu16(bytes, _mm256_set1_epi16(1 << 8)));
  }
  inline __m256i of(int parity) const {
    return parity ? odd : _mm256_sub_epi16(pairs, _mm256_slli_epi16(odd, 8));
  }
};
