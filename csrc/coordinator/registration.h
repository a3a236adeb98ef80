// The life of a job as the daemon sees it: registered, attached again, ended.
#pragma once

#include "coordinator/decide.h"

namespace tide::coordinator {

void OnRegister(Context& context, PeerId id, Peer& peer, uint64_t request_id,
                const wire::Register& registration);
void OnBye(Context& context, Job& job, const wire::Bye& bye);

}  // namespace tide::coordinator
