#include "torch_hooks/op_gate.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <optional>

namespace tide::torch_hooks {
namespace {

const TideCoreApi* g_api = nullptr;
const TideCoreApi* g_device_api = nullptr;
bool (*g_may_wait)() = nullptr;
std::optional<at::CallbackHandle> g_recording;
std::optional<at::CallbackHandle> g_pace;
std::optional<at::CallbackHandle> g_uses;
std::optional<at::CallbackHandle> g_backward;

using Use = void (*)(const at::Tensor& tensor);

void TouchOnHost(const at::Tensor& tensor) {
  if (!tensor.is_cpu() || !tensor.has_storage()) return;
  const c10::Storage& storage = tensor.storage();
  g_api->touch(storage.data(), storage.nbytes());
}

void UseOnDevice(const at::Tensor& tensor) {
  if (!tensor.is_cuda() || !tensor.has_storage()) return;
  const c10::Storage& storage = tensor.storage();
  if (storage.nbytes() > 0) g_device_api->use_storage(storage.data(), storage.nbytes());
}

/// Every tensor of an operator's argument, in lists of lists too.
void ForEachTensor(const c10::IValue& value, Use use) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) use(value.toTensor());
  } else if (value.isList()) {
    const auto list = value.toListRef();
    // Elements are of one kind: numbers are not looked at one by one.
    if (list.empty() || !(list[0].isTensor() || list[0].isList() || list[0].isNone())) return;
    for (const c10::IValue& element : list) ForEachTensor(element, use);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) ForEachTensor(element, use);
  }
}

std::unique_ptr<at::ObserverContext> OnOperator(const at::RecordFunction& function) {
  g_api->next_operator();
  for (const c10::IValue& input : function.inputs()) ForEachTensor(input, TouchOnHost);
  return nullptr;
}

std::unique_ptr<at::ObserverContext> OnDeviceOperator(const at::RecordFunction& function) {
  for (const c10::IValue& input : function.inputs()) ForEachTensor(input, UseOnDevice);
  return nullptr;
}

std::unique_ptr<at::ObserverContext> OnBackward(const at::RecordFunction&) {
  g_device_api->backward();
  return nullptr;
}

std::unique_ptr<at::ObserverContext> OnPacedOperator(const at::RecordFunction&) {
  g_api->pace_operator(g_may_wait() ? 1 : 0);
  return nullptr;
}

void Arm(std::optional<at::CallbackHandle>& handle, bool on,
         at::RecordFunctionCallback::StartCallback callback, bool inputs,
         at::RecordScope scope = at::RecordScope::FUNCTION) {
  if (on == handle.has_value()) return;
  if (on) {
    handle = at::addGlobalCallback(
        at::RecordFunctionCallback(callback).needsInputs(inputs).scopes({scope}));
  } else {
    at::removeCallback(*handle);
    handle.reset();
  }
}

}  // namespace

void ArmOpGate(const TideCoreApi* api, int wanted, bool (*may_wait)()) {
  g_api = api;
  g_may_wait = may_wait;
  Arm(g_recording, (wanted & TIDE_OPERATORS_RECORD) != 0, OnOperator, /*inputs=*/true);
  Arm(g_pace, (wanted & TIDE_OPERATORS_PACE) != 0, OnPacedOperator, /*inputs=*/false);
}

void ArmUseGate(const TideCoreApi* api, bool on) {
  g_device_api = api;
  Arm(g_uses, on, OnDeviceOperator, /*inputs=*/true);
  Arm(g_backward, on, OnBackward, /*inputs=*/false, at::RecordScope::BACKWARD_FUNCTION);
}

}  // namespace tide::torch_hooks
