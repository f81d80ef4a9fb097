// The scalars of a layer's linear pass: a second writing of `advance` in novograd/rule.py.
//
// Every published NovoGrad without amsgrad is a choice of the numbers of `Rule`; the kernels know
// none of them. The documented one (NVIDIA Clara Train 3.1, ai4med.libs.optimizers.NovoGrad) is
//   keep = beta2, mix = 1 - beta2, first = 1, correction = 1, inside = epsilon, power = 0.5,
//   a = k*lr, b = k*lr*weight_decay, c = d = wake = 1, the others 0.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace novograd {

// It is an array of numbers to its callers, in this order: novograd.native.arguments makes it.
struct Rule {
  double beta1;
  double keep, mix, first;  // v = keep*v + mix*s; first*s while v is exactly 0
  double correction, inside, outside;
  double power;              // norm = (correction*v + inside)^power + outside; it is 1/2 or 1
  double normalises_moment;  // the norm divides 0: a, 1: d
  double a, b, c, d;
  double wake;            // 0: a layer without history or gradient takes no b
  double nesterov;        // these are 0 or 1
  double skip_nonfinite;  // leave a layer untouched whose s is not finite
  double increment;       // the target is what is to be added to the weights
};

using RuleNumbers = std::array<double, sizeof(Rule) / sizeof(double)>;

// push = a*g + b*w;  m = beta1*m + push;  target = c*w - (d*m + ahead*push)
struct Scalars {
  double v;
  double beta1, a, b, c, d, ahead;
  bool skip;  // leave the layer untouched
};

// V is the type in which v is stored; `s` is the sum of the squares of the gradient, and `scale`
// the factor of the normalised gradient.
template <class V>
Scalars scalars(double s, V old, double scale, const Rule& rule) {
  // Rounded like v, so that what leaves its range does so in every implementation.
  s = static_cast<V>(s);
  const V v = static_cast<V>(old == 0 ? rule.first * s : rule.keep * old + rule.mix * s);
  // Without an epsilon a gradient that is zero throughout would be 0/0.
  constexpr double smallest = std::numeric_limits<V>::min();
  const double inside = rule.outside > 0 ? rule.inside : std::max(rule.inside, smallest);
  const double corrected = rule.correction * v + inside;
  const double norm = (rule.power == 0.5 ? std::sqrt(corrected) : corrected) + rule.outside;
  const bool divides_d = rule.normalises_moment != 0;
  const double d = divides_d ? scale * rule.d / norm : rule.d;
  return {
      // An s beyond the range makes a = 0 and must not stay in v for ever.
      .v = std::isfinite(v) ? v : old,
      .beta1 = rule.beta1,
      .a = divides_d ? rule.a : scale * rule.a / norm,
      .b = rule.wake == 0 && old == 0 && v == 0 ? 0 : rule.b,
      .c = rule.c - rule.increment,
      // Nesterov's w = c*w - d*(beta1*m + push).
      .d = rule.nesterov != 0 ? d * rule.beta1 : d,
      .ahead = rule.nesterov * d,
      .skip = rule.skip_nonfinite != 0 && !std::isfinite(s),
  };
}

}  // namespace novograd
