// Computes the scalars of layers from their squared norms, in C++: `advance` of novograd/rule.py.
//
// For kernels.cpp, which explains why everything here is internal. There are no branches, so that
// compilers vectorise a loop over layers.
#pragma once

#include <cstddef>
#include <limits>

#include "scalars.h"

namespace novograd {
namespace {

template <class T>
bool finite(T x) {
  return x - x == 0;
}

// Returns x if y is NaN.
double larger(double x, double y) { return x < y ? y : x; }

// The scalars of layers of one tensor. V is the type of the stored v, and `scale` is the factor of
// the normalised gradient.
template <class V>
class Advance {
 public:
  Advance(const Rule& rule, double scale)
      : rule_(rule),
        // With epsilon 0, a gradient of zeros would give 0/0.
        inside_(rule.outside > 0 ? rule.inside
                                 : larger(rule.inside, std::numeric_limits<V>::min())),
        asleep_(rule.wake == 0 ? 0 : rule.b),
        root_(rule.power == 0.5),
        divides_d_(rule.normalises_moment != 0),
        a_(divides_d_ ? rule.a : scale * rule.a),
        d_(divides_d_ ? scale * rule.d : rule.d) {}

  // Writes the scalars of a layer with squared norm `s`, and updates its `v`.
  void operator()(GroupScalars& layers, std::size_t i, V& v) const {
    // Rounded to the type of v, so that s overflows in the same cases in every backend.
    const double s = layers.s[i] = static_cast<V>(layers.s[i]);
    const V old = v;
    const V next = static_cast<V>(old == 0 ? rule_.first * s : rule_.keep * old + rule_.mix * s);
    // The second argument is NaN if clip is 0 while s is infinite.
    const double corrected = larger(rule_.correction * next, rule_.clip * s) + inside_;
    const double norm = (root_ ? __builtin_sqrt(corrected) : corrected) + rule_.outside;
    const double d = divides_d_ ? d_ / norm : d_;
    layers.a[i] = divides_d_ ? a_ : a_ / norm;
    layers.b[i] = ((old == 0) & (next == 0)) ? asleep_ : rule_.b;
    // Nesterov: w = c*w - d*(beta1*m + push).
    layers.d[i] = rule_.nesterov != 0 ? d * rule_.beta1 : d;
    layers.ahead[i] = rule_.nesterov * d;
    // If v overflows, a is 0. The infinity must not stay in v.
    v = finite(next) ? next : old;
  }

  // Writes the scalars that all layers have in common.
  void common(GroupScalars& layers) const {
    layers.beta1 = rule_.beta1;
    layers.c = rule_.c - rule_.increment;
  }

 private:
  Rule rule_;
  double inside_, asleep_;
  bool root_, divides_d_;
  double a_, d_;
};

}  // namespace
}  // namespace novograd
