// Panel kernels for NEON by TBL: 16 rows a vector. Included by isa_*.cpp inside its own namespace.

// The subset sums of a float group, one 16-byte plane for each byte of a float.
static void panel_tables_float(const float* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    float sums[kTableEntries];
    subset_sums(x + 4 * g, sums);
    uint8_t bytes[4 * kTableEntries];
    __builtin_memcpy(bytes, sums, sizeof bytes);
    const uint8x16x4_t planes = vld4q_u8(bytes);
    uint8_t* place = static_cast<uint8_t*>(tables) + g * kPanelTableBytes;
    for (int b = 0; b < 4; b++) vst1q_u8(place + 16 * b, planes.val[b]);
  }
}

// Looks up 16 floats byte plane by byte plane; interleaving the planes makes floats again.
static inline void add_floats(const uint8x16x4_t& planes, uint8x16_t index, float32x4_t sums[4]) {
  const uint8x16x2_t low = vzipq_u8(vqtbl1q_u8(planes.val[0], index),
                                    vqtbl1q_u8(planes.val[1], index));
  const uint8x16x2_t high = vzipq_u8(vqtbl1q_u8(planes.val[2], index),
                                     vqtbl1q_u8(planes.val[3], index));
  for (int h = 0; h < 2; h++) {
    const uint16x8x2_t words =
        vzipq_u16(vreinterpretq_u16_u8(low.val[h]), vreinterpretq_u16_u8(high.val[h]));
    for (int v = 0; v < 2; v++)
      sums[2 * h + v] = vaddq_f32(sums[2 * h + v], vreinterpretq_f32_u16(words.val[v]));
  }
}

static void panel_float(const void* tables, const uint8_t* codes, int64_t groups, float* pos,
                        float* neg) {
  for (int row = 0; row < kPanelRows; row += 16) {
    float32x4_t p[4], n[4];
    for (int v = 0; v < 4; v++) p[v] = n[v] = vdupq_n_f32(0);
    for (int64_t g = 0; g < groups; g++) {
      const uint8_t* table = static_cast<const uint8_t*>(tables) + g * kPanelTableBytes;
      const uint8x16x4_t planes = {
          {vld1q_u8(table), vld1q_u8(table + 16), vld1q_u8(table + 32), vld1q_u8(table + 48)}};
      const uint8x16_t code = vld1q_u8(codes + g * kPanelRows + row);
      add_floats(planes, vandq_u8(code, vdupq_n_u8(15)), p);
      add_floats(planes, vshrq_n_u8(code, 4), n);
    }
    for (int v = 0; v < 4; v++) {
      vst1q_f32(pos + row + 4 * v, p[v]);
      vst1q_f32(neg + row + 4 * v, n[v]);
    }
  }
}
