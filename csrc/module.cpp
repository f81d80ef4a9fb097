// The Python module novograd._native. It gets arrays as addresses, so it depends on no framework.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "scalars.h"
#include "step.h"
#include "tensor.h"
#include "traffic.h"
#include "xla.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace novograd {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using OptionalAddresses = std::vector<std::optional<std::uintptr_t>>;
using Numbers = std::array<std::size_t, 4>;  // the members of a Grid
// For what is rounded at random: `row`, `first` and `pitch` of Rows.
using RowNumbers = std::vector<std::optional<std::array<std::uint64_t, 3>>>;
using Kind = std::array<Dtype, 3>;  // dtypes of weights, gradient and momentum buffer

const char* name(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return "float64";
    case Dtype::float32: return "float32";
    case Dtype::bfloat16: return "bfloat16";
    case Dtype::float16: return "float16";
    default: return "int8";
  }
}

// The dtypes for which there are kernels.
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> found = [] {
    constexpr Dtype all[] = {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16,
                             Dtype::int8};
    const Kernels& any = *supported_kernels().front();
    std::vector<Kind> found;
    for (Dtype w : all) {
      for (Dtype g : all) {
        for (Dtype m : all) {
          const bool quantised = m == Dtype::int8 && any.quantised_pass(w, g);
          if (quantised || any.linear_pass(w, g, m)) found.push_back({w, g, m});
        }
      }
    }
    return found;
  }();
  return found;
}

struct Tensors {
  std::vector<Tensor> all;
};

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

Tensors make_tensors(const std::vector<std::size_t>& kind, const std::vector<Numbers>& grids,
                     const std::vector<double>& scales, const Addresses& weights,
                     const Addresses& gradients, const Addresses& moments, const Addresses& vs,
                     const std::optional<OptionalAddresses>& squares,
                     const std::optional<RowNumbers>& rows,
                     const std::optional<OptionalAddresses>& block_scales,
                     const std::optional<OptionalAddresses>& counts,
                     const std::optional<std::vector<bool>>& stochastic) {
  const std::size_t n = kind.size();
  for (std::size_t given : {grids.size(), scales.size(), weights.size(), gradients.size(),
                            moments.size(), vs.size(), squares ? squares->size() : n,
                            rows ? rows->size() : n, block_scales ? block_scales->size() : n,
                            counts ? counts->size() : n, stochastic ? stochastic->size() : n}) {
    if (given != n) throw std::invalid_argument("all lists must have the same length");
  }
  std::vector<Tensor> tensors(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto [w, g, m] = kinds().at(kind[i]);
    const auto [runs, layers, run, stride] = grids[i];
    const auto known = [i](const auto& list) { return list && (*list)[i]; };
    const bool at_random = known(stochastic);
    if (m == Dtype::int8 && (!known(rows) || !known(block_scales) || !known(counts))) {
      throw std::invalid_argument("a moment in int8 needs rows, block_scales and counts");
    }
    if (at_random && (w != Dtype::bfloat16 || !known(rows) || !known(counts))) {
      throw std::invalid_argument("stochastic weights are bfloat16, and need rows and counts");
    }
    Rows numbered = {};
    if (m == Dtype::int8 || at_random) {
      const auto [row, first, pitch] = *(*rows)[i];
      void* block_scale = known(block_scales) ? pointer(*(*block_scales)[i]) : nullptr;
      numbered = {.scales = static_cast<float*>(block_scale),
                  .row = row,
                  .first = first,
                  .pitch = pitch,
                  .count = static_cast<const float*>(pointer(*(*counts)[i]))};
    }
    tensors[i] = {
        .grid = {runs, layers, run, stride},
        .scale = scales[i],
        .weight_dtype = at_random ? Dtype::stochastic_bfloat16 : w,
        .gradient_dtype = g,
        .moment_dtype = m,
        .weights = pointer(weights[i]),
        .gradient = pointer(gradients[i]),
        .moment = pointer(moments[i]),
        .v = pointer(vs[i]),
        .target = pointer(weights[i]),
        .squares = squares ? static_cast<double*>(pointer((*squares)[i].value_or(0))) : nullptr,
        .rows = numbered};
  }
  return {std::move(tensors)};
}

// Addresses: a row for each of weights, gradients, moments, vs, squares, block_scales and counts.
using Table = nb::ndarray<const std::int64_t, nb::shape<7, -1>, nb::c_contig, nb::device::cpu>;

Tensors at(const Tensors& tensors, const Table& table) {
  Tensors moved = tensors;
  if (table.shape(1) != moved.all.size()) {
    throw std::invalid_argument("addresses needs a column for every tensor");
  }
  for (std::size_t i = 0; i < moved.all.size(); ++i) {
    const auto address = [&](std::size_t row) {
      return pointer(static_cast<std::uintptr_t>(table(row, i)));
    };
    Tensor& tensor = moved.all[i];
    tensor.weights = tensor.target = address(0);
    tensor.gradient = address(1);
    tensor.moment = address(2);
    tensor.v = address(3);
    tensor.squares = static_cast<double*>(address(4));
    if (tensor.rows.row) {
      tensor.rows.scales = static_cast<float*>(address(5));
      tensor.rows.count = static_cast<const float*>(address(6));
    }
  }
  return moved;
}

void write_square_sums(const Tensors& tensors, int threads) {
  for (const Tensor& tensor : tensors.all) {
    if (tensor.squares == nullptr) {
      throw std::invalid_argument("square_sums needs an address in squares for every tensor");
    }
  }
  const Kernels& chosen = kernels();
  const nb::gil_scoped_release release;
  square_sums(tensors.all, chosen, threads);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // objects may be alive when Python exits
  nb::list names;
  for (const auto& [w, g, m_] : kinds()) names.append(nb::make_tuple(name(w), name(g), name(m_)));
  m.attr("KINDS") = nb::tuple(names);

  nb::class_<Tensors>(m, "Tensors")
      .def(
          "__init__",
          [](Tensors* self, const std::vector<std::size_t>& kinds,
             const std::vector<Numbers>& grids, const std::vector<double>& scales,
             const Addresses& weights, const Addresses& gradients, const Addresses& moments,
             const Addresses& vs, const std::optional<OptionalAddresses>& squares,
             const std::optional<RowNumbers>& rows,
             const std::optional<OptionalAddresses>& block_scales,
             const std::optional<OptionalAddresses>& counts,
             const std::optional<std::vector<bool>>& stochastic) {
            new (self) Tensors(make_tensors(kinds, grids, scales, weights, gradients, moments, vs,
                                            squares, rows, block_scales, counts, stochastic));
          },
          nb::kw_only(), "kinds"_a, "grids"_a, "scales"_a, "weights"_a, "gradients"_a, "moments"_a,
          "vs"_a, "squares"_a = nb::none(), "rows"_a = nb::none(), "block_scales"_a = nb::none(),
          "counts"_a = nb::none(), "stochastic"_a = nb::none())
      .def("at", &at, "addresses"_a)
      .def("overlap",
           [](const Tensors& self) {
             const nb::gil_scoped_release release;
             return overlap(self.all);
           })
      .def("square_sums", &write_square_sums, "threads"_a)
      .def(
          "step",
          [](const Tensors& self, const RuleNumbers& rule, int threads) {
            const Kernels& chosen = kernels();
            const nb::gil_scoped_release release;
            step(self.all, std::bit_cast<Rule>(rule), chosen, threads);
          },
          "rule"_a, "threads"_a);

  m.def("described", &described, "exchange"_a, "types"_a, "columns"_a);
  m.def(
      "traffic",
      [](std::uintptr_t weights, std::uintptr_t gradient, std::uintptr_t moment, std::size_t size,
         int threads) {
        const nb::gil_scoped_release release;
        traffic(static_cast<float*>(pointer(weights)), static_cast<float*>(pointer(gradient)),
                static_cast<float*>(pointer(moment)), size, threads);
      },
      nb::kw_only(), "weights"_a, "gradient"_a, "moment"_a, "size"_a, "threads"_a);
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* one : supported_kernels()) names.emplace_back(one->name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def(
      "has_quantised_pass",
      [](const Numbers& grid, std::size_t row) {
        const auto [runs, layers, run, stride] = grid;
        return has_quantised_pass({runs, layers, run, stride}, row);
      },
      nb::kw_only(), "grid"_a, "row"_a);
  m.def("xla_step", [] { return nb::capsule(xla_step(), "xla._CUSTOM_CALL_TARGET"); });
}

}  // namespace novograd
