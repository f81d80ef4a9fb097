// The Python module novograd._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "scalars.h"
#include "step.h"
#include "traffic.h"
#include "xla.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace novograd {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using Dtypes = std::vector<Dtype>;

void step_from_python(const std::vector<std::size_t>& sizes, const Addresses& weights,
                      const Addresses& gradients, const Addresses& moments, const Addresses& vs,
                      const Dtypes& weight_dtypes, const Dtypes& gradient_dtypes,
                      const Dtypes& moment_dtypes, const RuleNumbers& rule, int threads) {
  const Kernels& chosen = kernels();
  std::vector<Layer> layers(sizes.size());
  for (const std::size_t given : {weights.size(), gradients.size(), moments.size(), vs.size(),
                                  weight_dtypes.size(), gradient_dtypes.size(),
                                  moment_dtypes.size()}) {
    if (given != sizes.size()) throw std::invalid_argument("all lists must have the same length");
  }
  const auto pointer = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    layers[i] = {sizes[i], weight_dtypes[i], gradient_dtypes[i], moment_dtypes[i],
                 pointer(weights[i]), pointer(gradients[i]), pointer(moments[i]), pointer(vs[i]),
                 pointer(weights[i])};
    if (chosen.linear_pass(weight_dtypes[i], gradient_dtypes[i], moment_dtypes[i]) == nullptr) {
      throw std::invalid_argument("no kernel for the dtypes of layer " + std::to_string(i));
    }
  }
  const nb::gil_scoped_release release;
  if (const auto found = overlap(layers)) {
    throw std::invalid_argument("layers " + std::to_string(found->first) + " and " +
                                std::to_string(found->second) + " share memory");
  }
  step(layers, std::bit_cast<Rule>(rule), chosen, threads);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::enum_<Dtype>(m, "Dtype")
      .value("float64", Dtype::float64)
      .value("float32", Dtype::float32)
      .value("bfloat16", Dtype::bfloat16)
      .value("float16", Dtype::float16);
  m.def("step", &step_from_python, "sizes"_a, "weights"_a, "gradients"_a, "moments"_a, "vs"_a,
        "weight_dtypes"_a, "gradient_dtypes"_a, "moment_dtypes"_a, "rule"_a, "threads"_a);
  m.def("traffic", [](std::uintptr_t weights, std::uintptr_t gradient, std::uintptr_t moment,
                      std::size_t size, int threads) {
    const nb::gil_scoped_release release;
    traffic(reinterpret_cast<float*>(weights), reinterpret_cast<const float*>(gradient),
            reinterpret_cast<float*>(moment), size, threads);
  });
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* one : supported_kernels()) names.emplace_back(one->name);
    return names;
  });
  m.def("xla_step", [] { return nb::capsule(xla_step(), "xla._CUSTOM_CALL_TARGET"); });
  m.def("instruction_set", [] { return std::string(kernels().name); });
}

}  // namespace novograd
