// The records of docs/reference/protocol.md that answers carry: jobs, lanes, status.
#pragma once

#include "coordinator/device_view.h"
#include "coordinator/state.h"

namespace tide::coordinator {

/// One record a job, live ones first, then processes that hold a slot without being registered (id
/// 0), then ended ones, newest first. Numbers come from the device table where the job has a slot,
/// else from its Report.
wire::Value::Array JobRecords(const State& state, const DeviceView& view, const Moment& now);

/// The answer to `status`.
wire::Value::Map StatusRecord(const State& state, const DeviceView& view, const Moment& now);

}  // namespace tide::coordinator
