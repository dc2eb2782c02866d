// The operators that the Python side calls, on any instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"
#include "rounding.h"

namespace ttq {

// Packed codes and what is applied to the sums: y = scale_pos P - scale_neg N + bias + residual,
// then ReLU. Scales and bias have one value for each row; bias and residual may be null.
struct Weights {
  const uint8_t* codes;
  int64_t rows;
  int64_t columns;  // codes in a row, the last byte's padding left out
  const float* scale_pos;
  const float* scale_neg;
  const float* bias;
  bool relu;
  bool quantized;  // int8 activations
  Layout layout = Layout::kNibbles;
  // In place of the codes, of a convolution: (rows, channels of a group, kernel height, width).
  const float* dense = nullptr;
  WindowColumns window{};  // of a convolution; `layout` then is its layout

  int64_t depth() const { return divide_up(columns, 4); }
};

struct Conv2dShape {
  int64_t images, channels, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;  // of the input, in elements
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width;
  int64_t dilation_height, dilation_width, groups;
  int64_t out_height, out_width;
  bool shared_tables;  // columns ordered (channel / 4, tap, channel % 4), else (channel, tap)
  bool channels_last;  // the output's memory format; else contiguous
  bool residual_channels_last;
};

// All return false, with y undefined, where float32 activations are not finite or too large for
// their sums: then the caller must follow the dense rule for them.
bool linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
            const float* residual, float* y, int threads);
// Several matrices of as many columns and the same activations on one input: ys[i] is (count, rows of
// weights[i]).
bool linear_many(const Kernels& kernels, const Weights* weights, int matrices, const float* x,
                 int64_t count, float* const* ys, int threads);
bool conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
            const float* x, const float* residual, float* y, int threads);

// Weights as given where the kernels can read their layout, else a repacked copy.
class ReadableWeights {
 public:
  ReadableWeights(const Kernels& kernels, const Weights& weights, int threads);
  // Of a convolution.
  ReadableWeights(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
                  int threads);
  const Weights& operator*() const { return weights_; }

 private:
  Weights weights_;
  std::vector<uint8_t> copy_;
};

// One recurrent layer in one direction.
struct Sequence {
  int64_t steps, batch, hidden;
  bool backward;
  const float* inputs;  // (steps, batch, weights.rows): the input products, bias included
  const float* h;       // (batch, hidden) at the start
  float* c;             // (batch, hidden), an LSTM's, changed to the last; null makes it a GRU
  float* outputs;       // (steps, batch, hidden)
};

// Weights of linear and recurrent layers must be readable by the kernels.
// `weights` are the hidden matrix (4 or 3 * hidden, hidden).
bool recurrent(const Kernels& kernels, const Weights& weights, const Sequence& sequence,
               int threads);

// One new token of each sequence beside those in a cache. Rows of q, k and v hold the heads side by
// side; q has a multiple of as many heads as k and v, which neighbours share.
struct DecodingStep {
  int64_t batch, heads, kv_heads, head_dim;
  int64_t capacity, position;  // places for tokens in the cache, and the new token's
  const float *q, *k, *v;
  const float *cosine, *sine;  // (head_dim) of this position
  float *keys, *values;        // (batch, kv_heads, capacity, head_dim), to which k and v are added
  float* out;                  // (batch, heads * head_dim)
};
void attend_step(const Kernels& kernels, const DecodingStep& step, int threads);

// A pre-normalized layer of a decoder: attention and a SwiGLU feed-forward layer on packed weights.
struct DecoderLayer {
  Weights q, k, v, o, gate, up, down;
  const float *attention_norm, *feed_forward_norm;  // weights of the RMS norms
  double attention_epsilon, feed_forward_epsilon;
  float *keys, *values;
};
// Takes x (batch, width) through the layers, in place; q, k, v, keys, values and out of `step` are
// filled in for each. Returns false, with x undefined, as linear does.
bool decoder_step(const Kernels& kernels, const std::vector<DecoderLayer>& layers,
                  const DecodingStep& step, float* x, int threads);

// One step of stacked recurrent layers: an LSTM with cells, a GRU without.
struct RecurrentLayer {
  Weights input, hidden;
};
struct RecurrentStep {
  int64_t batch, hidden;
  const float* x;  // (batch, columns of the first input matrix)
  const float* h;  // (layers, batch, hidden)
  float* c;        // (layers, batch, hidden), changed; null makes it a GRU
  float* out;      // (layers, batch, hidden): the new h
};
bool recurrent_step(const Kernels& kernels, const std::vector<RecurrentLayer>& layers,
                    const RecurrentStep& step, int threads);

// The instruction sets of this build that this CPU has, best first; ends with portable.
int usable_kernels(const Kernels** found, int capacity);
extern const char* const kKnownNames[];
extern const int kKnownCount;

// Activations above this fall back, so that no sum of a few overflows to an infinity.
constexpr float kLargestActivation = 1e30f;
// Rows below this count as zero: 127 over it is still finite.
constexpr float kSmallestRowMaximum = 0x1p-120f;

// The quantization rule: integer = x * multiplier rounded, x ~ integer * scale.
struct RowScale {
  float multiplier, scale;
};
RowScale row_scale(float largest);

}  // namespace ttq
