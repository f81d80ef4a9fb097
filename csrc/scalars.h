// The numbers of the rule, and the coefficients of a layer's linear pass.
//
// Every published NovoGrad without amsgrad is a choice of the numbers of `Rule`; the kernels do not
// know the variants. For the documented rule (NVIDIA Clara Train 3.1,
// ai4med.libs.optimizers.NovoGrad), the numbers are
//   keep = beta2, mix = 1 - beta2, first = 1, correction = 1, inside = epsilon, power = 0.5,
//   a = k*lr, b = k*lr*weight_decay, c = d = wake = 1, and all other numbers are 0.
#pragma once

#include <array>
#include <cstddef>

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
  double beta1, a, b, c, d, ahead;
  bool skip;  // the layer does not change
};

// The squared norms of up to `group` layers of a tensor, and the scalars that follow from them.
constexpr std::size_t group = 256;
struct GroupScalars {
  double s[group], a[group], b[group], d[group], ahead[group];
  double beta1, c;  // of all layers
};

}  // namespace novograd
