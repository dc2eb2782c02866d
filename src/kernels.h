// What one instruction set offers: the inner loops, behind a table of functions.
//
// Every file isa_*.cpp fills one table from the same sources, compiled with its own flags; the
// drivers (linear.cpp, conv2d.cpp) hold the loops around them and know no instruction set.
//
// Weights: four ternary codes make a byte, bit t set where code t is +1, bit 4 + t where it is -1.
// A matrix (rows, 4 * depth) lies in panels of 64 rows, the last panel narrower, each panel
// [depth][width] bytes. A sum over +1 codes (P) and one over -1 codes (N) give every output:
// y = scale_pos * P - scale_neg * N.
//
// In linear layers both sums come from tables: for four activations the 16 sums of
// their subsets, indexed by a nibble, so that one addition does the work of four weights. Two forms
// of it:
//   panel  (few input rows): one table, many weight rows looked up by byte shuffles;
//   lanes  (many input rows, int8): a table entry holds one value for each of many inputs, and a
//          weight byte selects whole vectors from the near caches.
// Convolutions and float batches decode a panel of weights and multiply (tiles).
#pragma once

#include <cstdint>

namespace ttq {

constexpr int kPanelRows = 64;
constexpr int kLanes = 64;         // most inputs that one lanes block holds
constexpr int kTableEntries = 16;  // subsets of four activations
constexpr int kCodeLimit = 127;    // |quantized activation|
constexpr int kPanelTableBytes = 64;
constexpr int kPrefetchBytes = 2048;  // codes fetched ahead: hardware stops at each page
constexpr int kPanelFloatGroups = 128;  // groups of one panel_float call: float32 rounding, cache
constexpr int kShuffledTableBytes = 32;  // of a group, where panel_short shuffles bytes on x86
constexpr int kFixedTableBytes = 80;    // table of a group in the fixed-point kernel
constexpr int kFixedChunk = 512;        // groups of one panel_fixed call, which share a unit
constexpr int kTripleColumns = 18;      // columns and panel bytes of a group in the wide layouts
constexpr int kTripleBytes = 256;
constexpr int kSextetColumns = 12;
constexpr int kSextetBytes = 192;
constexpr int kTripleTableBytes = 6 * 128;  // tables of such a group, for one input row
constexpr int kSextetTableBytes = 2 * 128;
constexpr int kTripleInputs = 4;  // most input rows that one call takes
constexpr int kSextetInputs = 2;
constexpr int kTripleRun = 21;       // groups summed in float32: 126 additions
constexpr int kSextetRun = 256;      // groups of one call: 39 * 2 * 256 is below 2^15
constexpr int kSextetOffset = 2 * 6 * kCodeLimit;
constexpr int kPanelShortGroups = 2048;  // groups of one panel_short call: 16-bit partial sums
// int16 sums of 4 * 127 a lookup: 64 of them stay below 32768.
constexpr int kShortRun = 64;

// How packed codes lie: nibbles as above, or as layout.h says.
enum class Layout { kNibbles, kTriples, kSextets };

// Build the tables of the lanes kernels for `groups` groups of four columns.
struct LaneTables {
  const int16_t* source;  // [4 * groups][kLanes], of which the first `lanes` are taken
  int64_t groups;
  int64_t lanes;          // a quarter, half or all of kLanes, in whole vectors
  int16_t* tables;        // [groups][kTableEntries][lanes]
};

// Look up and add, for rows of packed codes and a block of lanes.
struct LaneLookup {
  const uint8_t* codes;      // the packed matrix
  int64_t matrix_rows;
  int64_t depth;             // bytes along the columns
  int64_t row_begin, row_end;
  int64_t column_begin;      // first byte column of this block
  int64_t columns;           // byte columns of this block
  const int16_t* tables;     // of these columns, as LaneTables gives them
  int64_t lanes;
  bool first;                // whether sums start at zero
  int32_t* sums;             // [row - row_begin][2][kLanes], P and N
};

// One panel of a wide layout, for a few input rows.
struct WidePanel {
  const void* tables;      // [inputs] of table_stride bytes, built for `groups` groups
  int64_t table_stride;
  int inputs;
  const uint8_t* codes;    // the panel's first group
  int64_t groups;
  const uint8_t* next;     // the codes that come after these, to be fetched ahead
};

constexpr int kTileWidth = 16;      // outputs of a float tile
constexpr int kMostTileWidth = 16;  // of a byte tile: each set has its own, at most this
constexpr int kMostTilePixels = 32;
constexpr int64_t kMostDepthwiseTaps = 256;  // 16-bit sums
// Elements after the last one of a run that a byte tile may read.
constexpr int kTileSlack = 64;

// Consecutive elements of a window, `offset` elements after its beginning.
struct TileRun {
  int32_t offset, length;  // the length of bytes is a multiple of 4
};

// Products of a panel of decoded weights with the windows of a few output pixels: W outputs for
// each of `count` pixels, W being kTileWidth or the set's tile_width_byte.
struct Tile {
  const void* const* pixels;  // [count] where each pixel's window begins: float or int8, > -128
  int count;                  // 1 to tile_pixels_float or tile_pixels_byte of the set
  const TileRun* runs;
  int64_t run_count;
  // Float [k][W] with the scales in it (w_pos, -w_neg, 0), or bytes [k / 4][2][W][4] of 0 and 1,
  // first those that mark the +1s, then the -1s (or what else decode_byte of the set makes of as
  // many bytes); k runs through the runs.
  const void* weights;
  void* sums;  // float [count][W], or int32 [count][2][W]: P and N
  bool first;  // whether sums are set; else they are added to
};

// Packed codes to the weights of a tile. A quad is four k of W rows: bytes of a nibble panel, of
// which those of quad i begin at codes + places[i] * stride. Rows past `rows` get zeros, and are
// not read.
struct TileDecode {
  const uint8_t* codes;
  const int32_t* places;
  int64_t stride;
  int64_t quads;
  int rows;            // 1 to W
  const float* w_pos;  // [rows], used by floats only
  const float* w_neg;
  void* weights;
};

// Outputs of a tile's pixels: scale * (w_pos P - w_neg N), or a float sum, which has both scales in
// it already; then + bias + residual, and ReLU. Strides are in floats.
struct TileFinish {
  const void* sums;
  int64_t count;  // any number of pixels
  int rows;       // outputs in use, 1 to W
  const float* w_pos;  // [rows], used by int32 sums only
  const float* w_neg;
  float scale;
  const float* bias;      // [rows] or null
  const float* residual;  // or null
  int64_t residual_pixel, residual_row;  // distance of pixels and of outputs; one of them is 1
  float* y;
  int64_t y_pixel, y_row;
  bool relu;
};

// Sums of int8 activations by lookup: 16 outputs of consecutive pixels of one row. For each quad
// (four channels of a pixel) a pixel has two tables of 16 bytes, of low and of high digits; those of
// the next pixel follow.
constexpr int kTableOutputs = 16;
constexpr int kTableOffset = 4 * kCodeLimit;
constexpr int64_t kMostTableQuads = 64;

struct TableTile {
  const uint8_t* tables;
  const int32_t* offsets;  // [quads] from `tables` to the first pixel's low digits
  int64_t digit_stride;    // from there to its high digits
  const uint8_t* codes;    // [quads][2][16], aligned: nibbles of the +1s, of the -1s
  int64_t quads;           // 1 to kMostTableQuads
  int pixels;              // 1 to table_pixels; tables and sums are there for whole vectors
  int32_t* sums;           // [pixels][2][16]
  bool first;
};

// Rows of a padded image [row][out_columns][channels] from pixels of any strides (in floats): what
// lies outside of the pixels becomes zero. Bytes get x * multiplier rounded to nearest even.
struct ImageFill {
  const float* x;
  int64_t row_stride, column_stride, channel_stride;
  int64_t rows, columns, channels;  // of x
  int64_t top, left;                // where x begins in the padded image
  int64_t row_begin, row_end;       // of the padded image
  int64_t out_columns;
  float multiplier;
  void* out;  // the padded image's row 0
};

// A head of cached keys and values, and the queries that share it.
struct AttendedHead {
  const float* query;   // [queries][columns], scaled
  const float* keys;    // [length][columns]
  const float* values;
  int64_t queries, length, columns;
  const float* next;    // what is read after these, to be fetched ahead
  float* weights;       // [length] to work in
  float* out;           // [queries][columns]
};

// Columns whose activations are multiples of one unit: x is about unit * integer.
struct FixedChunk {
  double unit;
  double offset;  // sum of the negative integers, from which table entries count
  double lost;    // sum of |x - unit * integer|
};

// Squares of a panel's outputs, and of the largest weight of each, summed.
struct FixedSquares {
  double outputs, weights;
};

constexpr int64_t kNever = int64_t{1} << 62;

struct Kernels {
  const char* name;
  int vector_bytes;
  // Linear layers of nibbles with fewer input rows than these go through the panel kernels, whose
  // cost grows with each row, those with more through float tiles, whose cost is first that of
  // decoding weights, or the lanes kernels, whose cost grows with each vector of rows. Measured on
  // Zen 3 for AVX2. AVX-512 (which packs most layers in a wide layout instead) has them by counting:
  // one load and addition a cycle make the lanes kernels do 2 codes for each lane in use, and the
  // panel kernels 17 codes in float, 39 in int8.
  int64_t tiles_from, short_lanes_from;
  // Fixed-point panels build tables for each input row, which count little where weight rows are
  // many. They serve any number of input rows from so many weight rows on, and where there are so
  // many for each input row.
  int64_t fixed_rows_from = kNever, fixed_rows_each = kNever;

  float (*largest)(const float* x, int64_t count);  // max |x|, NaN or infinity if any is
  // x * multiplier rounded to nearest even, as int16.
  void (*quantize)(const float* x, int64_t count, float multiplier, int16_t* out);

  void (*lane_tables)(const LaneTables&);
  void (*lane_lookup)(const LaneLookup&);

  // scale_pos P - scale_neg N of one weight row for kLanes lanes, from [2][kLanes].
  void (*finish_lanes)(const int32_t* sums, float scale_pos, float scale_neg, float* values);

  // Panel kernels: tables of kPanelTableBytes (int8: short_table_bytes) for each group; sums of 64
  // rows over `groups`,
  // at most kPanelFloatGroups or kPanelShortGroups.
  void (*panel_tables_float)(const float* x, int64_t groups, void* tables);
  int64_t short_table_bytes = kPanelTableBytes;
  void (*panel_tables_short)(const int16_t* x, int64_t groups, void* tables);
  void (*panel_float)(const void* tables, const uint8_t* codes, int64_t groups, float* pos,
                      float* neg);
  void (*panel_short)(const void* tables, const uint8_t* codes, int64_t groups, int32_t* pos,
                      int32_t* neg);

  // In place of panel_float, null in sets without it: tables of kFixedTableBytes for each group, an
  // even number of them, of up to 4 * kFixedChunk columns, those past the last counting as zeros;
  // sums of 64 rows are added to what is there; scale_pos * pos - scale_neg * neg.
  FixedChunk (*fixed_tables)(const float* x, int64_t columns, void* tables) = nullptr;
  void (*panel_fixed)(const void* tables, const uint8_t* codes, int64_t groups,
                      const FixedChunk& chunk, double* pos, double* neg) = nullptr;
  FixedSquares (*fixed_values)(const double* pos, const double* neg, const float* scale_pos,
                               const float* scale_neg, int64_t rows, float* values) = nullptr;

  // Dot products of `rows` dense float rows with x, for the dense GEMV rival.
  void (*dense_rows)(const float* x, const float* weights, int64_t rows, int64_t columns,
                     float* y);

  // Tiles, what makes their sources and weights, and what follows their sums.
  int tile_pixels_float, tile_pixels_byte, tile_width_byte;
  void (*tile_float)(const Tile&);
  void (*tile_byte)(const Tile&);
  void (*fill_float)(const ImageFill&);
  void (*fill_byte)(const ImageFill&);
  void (*decode_float)(const TileDecode&);
  void (*decode_byte)(const TileDecode&);
  void (*finish_tile_float)(const TileFinish&);
  void (*finish_tile_byte)(const TileFinish&);

  // The dense parts of a recurrent or decoding step (step_kernels.h).
  void (*lstm_cell)(const float* gates, int64_t hidden, float* c, float* h);
  void (*gru_cell)(const float* input, const float* product, int64_t hidden, const float* before,
                   float* h);
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* y);
  void (*rms_norm)(const float* x, const float* weight, int64_t count, double epsilon, float* y);
  void (*rotate)(const float* x, const float* cosine, const float* sine, int64_t half, float scale,
                 float* y);
  void (*attend)(const AttendedHead& head);

  // As finish_tile_byte, of kTableOutputs or kTileWidth outputs, which are as many.
  void (*finish_sixteen)(const TileFinish&);

  // Depthwise tiles: `pixels` point at the first of kTileWidth channels, `runs` hold each tap's
  // offset, weights are float [taps][W] or 16-bit masks [taps][2][W]. All taps, at most
  // kMostDepthwiseTaps, are one call's; sums are always set.
  int depthwise_pixels;
  void (*depthwise_float)(const Tile&);
  void (*depthwise_byte)(const Tile&);
  void (*decode_masks)(const TileDecode&);

  // Tiles by lookup, null in sets without them. make_tables takes pixels `stride` bytes apart.
  int table_pixels = 0, table_lanes = 1;  // most pixels, pixels of a vector
  // Speed of looking up over that of the set's byte tile.
  float lookup_speed = 0;
  void (*tile_table)(const TableTile&) = nullptr;
  void (*make_tables)(const int8_t* x, int64_t count, int64_t stride, uint8_t* low,
                      uint8_t* high) = nullptr;

  // Kernels of the wide layouts, null in sets without them. Tables hold w_pos for code +1 and
  // -w_neg for -1 (triples), or exact integers (sextets). Sums are added to what is there: float
  // [inputs][64], which triple_totals moves to float64 after kTripleRun groups, and int32
  // [inputs][2][64], of P and N, which get the offset kSextetOffset for each group.
  void (*triple_tables)(const float* x, int64_t groups, float w_pos, float w_neg,
                        void* tables) = nullptr;
  void (*triple_sums)(const WidePanel& panel, float* sums) = nullptr;
  void (*triple_totals)(float* sums, int64_t count, double* totals) = nullptr;
  void (*sextet_tables)(const int16_t* x, int64_t groups, void* tables) = nullptr;
  void (*sextet_sums)(const WidePanel& panel, int32_t* sums) = nullptr;
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx_vnni_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_plain_kernels();
const Kernels* neon_kernels();
const Kernels* neon_dotprod_kernels();

}  // namespace ttq
