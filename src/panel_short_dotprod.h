// The int8 panel kernel by SDOT: four rows a vector, four codes of a row an instruction.
// Included by isa_*.cpp inside its own namespace. See panel_short_vnni.h for the idea.

constexpr int kQuad = 4;  // byte columns taken together

static void panel_tables_dotprod(const int16_t* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    int8_t* bytes = static_cast<int8_t*>(tables) + g * kPanelTableBytes;
    for (int t = 0; t < 4; t++) bytes[t] = static_cast<int8_t>(x[4 * g + t]);
  }
}

static void panel_short_dotprod(const void* tables, const uint8_t* codes, int64_t groups,
                                int32_t* pos, int32_t* neg) {
  const uint8x16_t one = vdupq_n_u8(1);
  for (int row = 0; row < kPanelRows; row += 16) {
    int32x4_t p[4], n[4];
    for (int v = 0; v < 4; v++) p[v] = n[v] = vdupq_n_s32(0);
    for (int64_t first = 0; first < groups; first += kQuad) {
      const int64_t count = smaller(kQuad, groups - first);
      uint8_t interleaved[64];
      uint8x16x4_t columns;
      int8_t x[4][kQuad] = {};
      for (int64_t g = 0; g < kQuad; g++) {
        columns.val[g] = g < count ? vld1q_u8(codes + (first + g) * kPanelRows + row)
                                   : vdupq_n_u8(0);
        for (int t = 0; t < 4 && g < count; t++)
          x[t][g] = static_cast<const int8_t*>(tables)[(first + g) * kPanelTableBytes + t];
      }
      vst4q_u8(interleaved, columns);  // four bytes of one row side by side
      for (int t = 0; t < 4; t++) {
        int32_t word;
        __builtin_memcpy(&word, x[t], sizeof word);
        const int8x16_t activations = vreinterpretq_s8_s32(vdupq_n_s32(word));
        const int8x16_t shift = vdupq_n_s8(static_cast<int8_t>(-t));
        for (int v = 0; v < 4; v++) {
          const uint8x16_t rows = vld1q_u8(interleaved + 16 * v);
          const uint8x16_t plus = vandq_u8(vshlq_u8(rows, shift), one);
          const uint8x16_t minus = vandq_u8(vshlq_u8(vshrq_n_u8(rows, 4), shift), one);
          p[v] = vdotq_s32(p[v], vreinterpretq_s8_u8(plus), activations);
          n[v] = vdotq_s32(n[v], vreinterpretq_s8_u8(minus), activations);
        }
      }
    }
    for (int v = 0; v < 4; v++) {
      vst1q_s32(pos + row + 4 * v, p[v]);
      vst1q_s32(neg + row + 4 * v, n[v]);
    }
  }
}
