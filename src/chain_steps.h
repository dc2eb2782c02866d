// The layers of a chain that have no weights of their own to multiply by.
#pragma once

#include "chain_plan.h"

namespace ttq {

// One image of a value: channels are consecutive.
struct Image {
  float* data;
  ValueShape shape;
  int64_t row, pixel;  // floats between neighbours

  float* at(int64_t y, int64_t x) const { return data + y * row + x * pixel; }
};

void max_pool(const Step& step, const Image& x, const Image& y);
void average_pool(const Step& step, const Image& x, const Image& y);
void adaptive_pool(const Image& x, const Image& y);
void subsample(const Step& step, const Image& x, const Image& y);
// `tensors`: weight and bias (null for none), mean, variance.
void norm(const Step& step, const float* const* tensors, const Image& x, const Image& y);
void clamp(float low, float high, const Image& x, const Image& y);
void add(const Image& x, const Image& other, bool relu, const Image& y);
void flatten(const Image& x, float* y);
// To an output of the chain, of any strides.
void copy_out(const Image& x, float* y, int64_t row, int64_t pixel, int64_t channel);

}  // namespace ttq
