// Tables of the int8 panel kernels that shuffle bytes, built with SSE.
// Included by isa_*.cpp inside its own namespace.

// Subset sums of an int16 group, offset to 0..1016 and split in two digits of five bits, so that
// eight of each add up in a byte.
constexpr int kSumOffset = 4 * kCodeLimit;
constexpr int kDigitRun = 8;

static void panel_tables_short(const int16_t* x, int64_t groups, void* tables) {
  const __m128i bias = _mm_set1_epi16(kSumOffset);
  const __m128i digit = _mm_set1_epi16(31);
  const __m128i pick_a = _mm_setr_epi16(0, -1, 0, -1, 0, -1, 0, -1);
  const __m128i pick_b = _mm_setr_epi16(0, 0, -1, -1, 0, 0, -1, -1);
  const __m128i pick_c = _mm_setr_epi16(0, 0, 0, 0, -1, -1, -1, -1);
  for (int64_t g = 0; g < groups; g++) {
    const int16_t* v = x + 4 * g;
    __m128i low = _mm_add_epi16(bias, _mm_and_si128(_mm_set1_epi16(v[0]), pick_a));
    low = _mm_add_epi16(low, _mm_and_si128(_mm_set1_epi16(v[1]), pick_b));
    low = _mm_add_epi16(low, _mm_and_si128(_mm_set1_epi16(v[2]), pick_c));
    const __m128i high = _mm_add_epi16(low, _mm_set1_epi16(v[3]));
    __m128i* planes =
        reinterpret_cast<__m128i*>(static_cast<uint8_t*>(tables) + g * kPanelTableBytes);
    _mm_store_si128(planes, _mm_packus_epi16(_mm_and_si128(low, digit),
                                             _mm_and_si128(high, digit)));
    _mm_store_si128(planes + 1,
                    _mm_packus_epi16(_mm_srli_epi16(low, 5), _mm_srli_epi16(high, 5)));
  }
}
