#include "memory.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "dlpack/dlpack.h"

namespace nb = nanobind;

namespace novograd {
namespace {

const DLPackExchangeAPI& exchange_of(const nb::capsule& capsule) {
  const void* found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (found == nullptr) throw nb::python_error();
  const auto& exchange = *static_cast<const DLPackExchangeAPI*>(found);
  if (exchange.header.version.major != DLPACK_MAJOR_VERSION ||
      exchange.dltensor_from_py_object_no_sync == nullptr) {
    throw std::runtime_error("the DLPack exchange API of the tensors has another version");
  }
  return exchange;
}

// Bytes for one tensor with few axes. A tensor with more axes makes the buffer grow.
constexpr std::size_t usual_bytes = 96;

class Bytes {
 public:
  explicit Bytes(std::size_t reserved) : bytes_(reserved) {}

  template <typename T>
  void append(const T* items, std::size_t count) {
    const std::size_t size = count * sizeof(T);
    if (used_ + size > bytes_.size()) bytes_.resize(2 * (used_ + size));
    if (size) std::memcpy(bytes_.data() + used_, items, size);
    used_ += size;
  }

  nb::bytes copy() const { return nb::bytes(bytes_.data(), used_); }

 private:
  std::vector<char> bytes_;
  std::size_t used_ = 0;
};

// Loads what `read` will need soon: these objects are seldom in the cache. An object of torch has
// the address of its tensor behind its header. If it does not, only the prefetch is wasted.
void prefetch(PyObject* tensor) {
  constexpr Py_ssize_t behind = sizeof(PyObject);
  if (Py_TYPE(tensor)->tp_basicsize < behind + static_cast<Py_ssize_t>(2 * sizeof(void*))) return;
  const char* words[2];
  std::memcpy(words, reinterpret_cast<const char*>(tensor) + behind, sizeof(words));
  for (const char* word : words) {
    for (int line = 0; line < 4; ++line) __builtin_prefetch(word + 64 * line);
  }
}

}  // namespace

std::pair<nb::bytes, nb::bytes> described(const nb::capsule& exchange, const nb::tuple& types,
                                          const std::vector<nb::object>& columns) {
  constexpr Py_ssize_t ahead = 8;
  const auto read = exchange_of(exchange).dltensor_from_py_object_no_sync;
  Py_ssize_t count = 0;
  for (const nb::object& column : columns) {
    if (!column.is_none()) count = PyList_Size(column.ptr());
    if (PyErr_Occurred()) throw nb::python_error();
  }
  std::vector<std::uint64_t> addresses(columns.size() * static_cast<std::size_t>(count));
  Bytes facts(addresses.size() * usual_bytes);
  std::uint64_t* address = addresses.data();
  const PyTypeObject* known = nullptr;
  for (const nb::object& column : columns) {
    const bool given = !column.is_none();
    facts.append(&given, 1);
    if (!given) {
      address += count;
      continue;
    }
    if (PyList_Size(column.ptr()) != count) {
      throw std::invalid_argument("all columns must have the same length");
    }
    for (Py_ssize_t i = 0; i < count; ++i, ++address) {
      if (i + ahead < count) prefetch(PyList_GET_ITEM(column.ptr(), i + ahead));
      PyObject* tensor = PyList_GET_ITEM(column.ptr(), i);
      PyTypeObject* type = Py_TYPE(tensor);
      facts.append(&type, 1);
      if (tensor == Py_None) continue;
      if (type != known) {  // neighbours usually have the same type
        const int allowed = PySequence_Contains(types.ptr(), reinterpret_cast<PyObject*>(type));
        if (allowed < 0) throw nb::python_error();
        if (allowed == 0) throw nb::type_error("a tensor has another type");
        known = type;
      }
      DLTensor found;
      if (read(tensor, &found) != 0) throw nb::python_error();
      *address = reinterpret_cast<std::uintptr_t>(found.data) + found.byte_offset;
      facts.append(&found.device, 1);
      facts.append(&found.dtype, 1);
      facts.append(&found.ndim, 1);
      const auto axes = static_cast<std::size_t>(found.ndim);
      facts.append(found.shape, axes);
      facts.append(found.strides, axes);
    }
  }
  return {facts.copy(), nb::bytes(addresses.data(), addresses.size() * sizeof(addresses[0]))};
}

}  // namespace novograd
