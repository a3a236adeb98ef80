#include "torch_hooks/op_gate.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <optional>

namespace tide::torch_hooks {
namespace {

const TideCoreApi* g_api = nullptr;
bool (*g_may_wait)() = nullptr;
std::optional<at::CallbackHandle> g_recording;
std::optional<at::CallbackHandle> g_pace;

void TouchTensor(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cpu() || !tensor.has_storage()) return;
  const c10::Storage& storage = tensor.storage();
  g_api->touch(storage.data(), storage.nbytes());
}

std::unique_ptr<at::ObserverContext> OnOperator(const at::RecordFunction& function) {
  g_api->next_operator();
  for (const c10::IValue& input : function.inputs()) {
    if (input.isTensor()) {
      TouchTensor(input.toTensor());
    } else if (input.isTensorList()) {
      for (const at::Tensor& tensor : input.toTensorVector()) TouchTensor(tensor);
    }
  }
  return nullptr;
}

std::unique_ptr<at::ObserverContext> OnPacedOperator(const at::RecordFunction&) {
  g_api->pace_operator(g_may_wait() ? 1 : 0);
  return nullptr;
}

void Arm(std::optional<at::CallbackHandle>& handle, bool on,
         at::RecordFunctionCallback::StartCallback callback, bool inputs) {
  if (on == handle.has_value()) return;
  if (on) {
    handle = at::addGlobalCallback(at::RecordFunctionCallback(callback).needsInputs(inputs).scopes(
        {at::RecordScope::FUNCTION}));
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

}  // namespace tide::torch_hooks
