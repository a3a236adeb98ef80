#include "torch_hooks/op_gate.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <optional>

namespace tide::torch_hooks {
namespace {

const TideCoreApi* g_api = nullptr;
std::optional<at::CallbackHandle> g_handle;

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

}  // namespace

void ArmOpGate(const TideCoreApi* api, bool on) {
  g_api = api;
  if (on == g_handle.has_value()) return;
  if (on) {
    g_handle = at::addGlobalCallback(at::RecordFunctionCallback(OnOperator)
                                         .needsInputs(true)
                                         .scopes({at::RecordScope::FUNCTION}));
  } else {
    at::removeCallback(*g_handle);
    g_handle.reset();
  }
}

}  // namespace tide::torch_hooks
