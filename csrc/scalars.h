// The coefficients of a layer's linear pass, in C++: `advance` of novograd/rule.py.
//
// Every published NovoGrad without amsgrad is a choice of the numbers of `Rule`; the kernels do not
// know the variants. For the documented rule (NVIDIA Clara Train 3.1,
// ai4med.libs.optimizers.NovoGrad), the numbers are
//   keep = beta2, mix = 1 - beta2, first = 1, correction = 1, inside = epsilon, power = 0.5,
//   a = k*lr, b = k*lr*weight_decay, c = d = wake = 1, and all other numbers are 0.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace novograd {

// Python passes an array of numbers in this order, made by novograd.native.arguments.
struct Rule {
  double beta1;
  double keep, mix, first;  // v = keep*v + mix*s; first*s while v is exactly 0
  double correction, clip, inside, outside;
  double power;  // 1/2 or 1; norm = (max(correction*v, clip*s) + inside)^power + outside
  double normalises_moment;  // 0: a is divided by the norm, 1: d is divided by the norm
  double a, b, c, d;
  double wake;            // 0: b is 0 for a layer without history and gradient
  double nesterov;        // this number and the next two are 0 or 1
  double skip_nonfinite;  // a layer does not change if its s is not finite
  double increment;       // the target receives the change of the weights, not the new weights
};

using RuleNumbers = std::array<double, sizeof(Rule) / sizeof(double)>;

// push = a*g + b*w;  m = beta1*m + push;  target = c*w - (d*m + ahead*push)
struct Scalars {
  double v;
  double beta1, a, b, c, d, ahead;
  bool skip;  // the layer does not change
};

// V is the type of the stored v, `s` is the squared norm, and `scale` is the factor of the
// normalised gradient.
template <class V>
Scalars scalars(double s, V old, double scale, const Rule& rule) {
  // Rounded to the type of v, so that s overflows in the same cases in every backend.
  s = static_cast<V>(s);
  const V v = static_cast<V>(old == 0 ? rule.first * s : rule.keep * old + rule.mix * s);
  // With epsilon 0, a gradient of zeros would give 0/0.
  constexpr double smallest = std::numeric_limits<V>::min();
  const double inside = rule.outside > 0 ? rule.inside : std::max(rule.inside, smallest);
  // max ignores its second argument if that is NaN: clip may be 0 while s is infinite.
  const double corrected = std::max(rule.correction * v, rule.clip * s) + inside;
  const double norm = (rule.power == 0.5 ? std::sqrt(corrected) : corrected) + rule.outside;
  const bool divides_d = rule.normalises_moment != 0;
  const double d = divides_d ? scale * rule.d / norm : rule.d;
  return {
      // If v overflows, a is 0. The infinity must not stay in v.
      .v = std::isfinite(v) ? v : old,
      .beta1 = rule.beta1,
      .a = divides_d ? rule.a : scale * rule.a / norm,
      .b = rule.wake == 0 && old == 0 && v == 0 ? 0 : rule.b,
      .c = rule.c - rule.increment,
      // Nesterov: w = c*w - d*(beta1*m + push).
      .d = rule.nesterov != 0 ? d * rule.beta1 : d,
      .ahead = rule.nesterov * d,
      .skip = rule.skip_nonfinite != 0 && !std::isfinite(s),
  };
}

}  // namespace novograd
