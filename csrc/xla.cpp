#include "xla.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "scalars.h"
#include "step.h"
#include "tensor.h"
#include "xla/ffi/api/c_api.h"

namespace novograd {
namespace {

// Complex numbers are pairs of real ones.
struct Array {
  void* data;
  std::size_t size;
  Dtype dtype;
};

Array array(const void* given) {
  const auto& buffer = *static_cast<const XLA_FFI_Buffer*>(given);
  std::size_t size = 1;
  for (std::int64_t i = 0; i < buffer.rank; ++i) size *= static_cast<std::size_t>(buffer.dims[i]);
  switch (buffer.dtype) {
    case XLA_FFI_DataType_F64: return {buffer.data, size, Dtype::float64};
    case XLA_FFI_DataType_F32: return {buffer.data, size, Dtype::float32};
    case XLA_FFI_DataType_BF16: return {buffer.data, size, Dtype::bfloat16};
    case XLA_FFI_DataType_F16: return {buffer.data, size, Dtype::float16};
    case XLA_FFI_DataType_S8: return {buffer.data, size, Dtype::int8};
    case XLA_FFI_DataType_C64: return {buffer.data, 2 * size, Dtype::float32};
    case XLA_FFI_DataType_C128: return {buffer.data, 2 * size, Dtype::float64};
    default: throw std::invalid_argument("no kernel for a dtype of XLA");
  }
}

RuleNumbers rule_numbers(const Array& given) {
  RuleNumbers rule;
  for (std::size_t i = 0; i < rule.size(); ++i) {
    rule[i] = given.dtype == Dtype::float64 ? static_cast<const double*>(given.data)[i]
                                            : static_cast<const float*>(given.data)[i];
  }
  return rule;
}

// Returns the memory of the result, to update a state in place. Copies the state there, unless XLA
// aliased argument and result.
void* in_result(const Array& argument, const Array& result) {
  if (result.data != argument.data) {
    std::memcpy(result.data, argument.data, argument.size * bytes(argument.dtype));
  }
  return result.data;
}

// Returns the attribute with a name. Its type must be as in xla.h; it is not checked.
template <class Attribute>
const Attribute& attribute(const XLA_FFI_Attrs& attrs, std::string_view name) {
  for (std::int64_t i = 0; i < attrs.size; ++i) {
    if (std::string_view(attrs.names[i]->ptr, attrs.names[i]->len) == name) {
      return *static_cast<const Attribute*>(attrs.attrs[i]);
    }
  }
  throw std::invalid_argument("an attribute is missing");
}

template <class T>
std::span<const T> numbers(const XLA_FFI_Attrs& attrs, std::string_view name) {
  const auto& array = attribute<XLA_FFI_Array>(attrs, name);
  return {static_cast<const T*>(array.data), array.size};
}

void step_from_xla(const XLA_FFI_Args& args, const XLA_FFI_Rets& rets, const XLA_FFI_Attrs& attrs) {
  const auto threads =
      static_cast<const std::int32_t*>(attribute<XLA_FFI_Scalar>(attrs, "threads").value);
  const auto scales = numbers<double>(attrs, "scales");
  const auto grids = numbers<std::int64_t>(attrs, "grids");
  const auto rows = numbers<std::int64_t>(attrs, "rows");
  const std::size_t n = scales.size();
  if (grids.size() != 4 * n)
    throw std::invalid_argument("not four numbers of a grid for each leaf");
  if (rows.size() != n) throw std::invalid_argument("not the number of a row for each leaf");
  const std::size_t quantised = n - static_cast<std::size_t>(std::ranges::count(rows, 0));
  const std::size_t more = quantised == 0 ? 0 : 1 + quantised;  // the count, and scales of blocks
  const bool weighted = static_cast<std::size_t>(args.size) == 1 + 4 * n + more;
  const bool targets = static_cast<std::size_t>(rets.size) == 3 * n + quantised;
  const std::size_t count = 1 + (3 + weighted) * n;
  std::size_t block_scales = 0;  // of earlier leaves
  const Array rule = array(args.args[0]);
  if (rule.size != std::tuple_size_v<RuleNumbers>) throw std::invalid_argument("not a rule");
  const Kernels& chosen = kernels();
  std::vector<Tensor> tensors(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto argument = [&](std::size_t kind) { return array(args.args[1 + kind * n + i]); };
    const auto state = [&](std::size_t kind) {
      return in_result(argument(1 + kind), array(rets.rets[(kind + targets) * n + i]));
    };
    const auto grid = [&](std::size_t field) {
      return static_cast<std::size_t>(grids[4 * i + field]);
    };
    const Array gradient = argument(0), moment = argument(1), v = argument(2);
    Rows blocks = {};
    if (moment.dtype == Dtype::int8) {
      const std::size_t row = static_cast<std::size_t>(rows[i]), at = block_scales++;
      void* found =
          in_result(array(args.args[count + 1 + at]), array(rets.rets[(2 + targets) * n + at]));
      blocks = {.scales = static_cast<float*>(found),
                .row = row,
                .first = 0,
                .pitch = row,
                .count = static_cast<const float*>(array(args.args[count]).data)};
    }
    tensors[i] = {
        .grid = {.runs = grid(0), .layers = grid(1), .run = grid(2), .stride = grid(3)},
        .scale = scales[i],
        .weight_dtype = gradient.dtype,
        .gradient_dtype = gradient.dtype,
        .moment_dtype = moment.dtype,
        // If the rule does not use the weights (b = 0, c = 1), any finite numbers will do.
        .weights = weighted ? argument(3).data : gradient.data,
        .gradient = gradient.data,
        .moment = state(0),
        .v = state(1),
        .target = targets ? array(rets.rets[i]).data : nullptr,
        .rows = blocks,
    };
    const Grid& found = tensors[i].grid;
    if (found.layers * found.layer_size() != gradient.size || found.layers != v.size) {
      throw std::invalid_argument("no grid of leaf " + std::to_string(i));
    }
    const bool known =
        moment.dtype == Dtype::int8
            ? targets && chosen.quantised_pass(gradient.dtype, gradient.dtype) != nullptr
            : chosen.linear_pass(gradient.dtype, gradient.dtype, moment.dtype) != nullptr;
    if (!known) {
      throw std::invalid_argument("no kernel for the dtypes of leaf " + std::to_string(i));
    }
  }
  step(tensors, std::bit_cast<Rule>(rule_numbers(rule)), chosen, *threads);
}

XLA_FFI_Error* error(const XLA_FFI_Api* api, const char* message) {
  XLA_FFI_Error_Create_Args args{
      .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
      .extension_start = nullptr,
      .message = message,
      .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT,
  };
  return api->XLA_FFI_Error_Create(&args);
}

XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) {
  // XLA first asks for the version of its interface that the handler uses.
  if (const auto* asked = frame->extension_start;
      asked != nullptr && asked->type == XLA_FFI_Extension_Metadata) {
    auto& metadata = *reinterpret_cast<const XLA_FFI_Metadata_Extension*>(asked)->metadata;
    metadata.api_version.major_version = XLA_FFI_API_MAJOR;
    // The handler uses nothing newer, so older versions of XLA can call it, too.
    metadata.api_version.minor_version = 1;
    metadata.traits = 0;
    return nullptr;
  }
  try {
    step_from_xla(frame->args, frame->rets, frame->attrs);
    return nullptr;
  } catch (const std::exception& problem) {
    return error(frame->api, problem.what());
  }
}

}  // namespace

void* xla_step() { return reinterpret_cast<void*>(&handler); }

}  // namespace novograd
