// One model over several ranks: rank 0 decides, the others do the same with their parts of the weights.
//
// Rank 0's engine sees a model like any other. What it is asked it first tells the other ranks (step_message.h); then
// all compute, and meet in the collectives of the layers. Nothing but weights and the KV cache lives on the others.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "comm/group.h"
#include "model/model.h"

namespace keye::engine {

/// Rank 0's side of `part`, its own part of the model. One KV cache may be used with it. The group must outlive it; its
/// destructor ends the others' follow(). What it is asked throws comm::PeerLost when a rank is lost.
std::unique_ptr<model::Model> make_leader(std::unique_ptr<model::Model> part, comm::Group& group);

/// The other ranks' side: returns when rank 0 has ended the run. Throws comm::PeerLost.
void follow(model::Model& part, comm::Group& group);

/// The least of what all ranks have, on each of them. Waits for all for as long as they live.
int64_t least_of_all(comm::Group& group, int64_t mine);

/// Which pictures each of `ranks` encodes: borders [ranks + 1] between runs of about the same cost.
std::vector<size_t> share_pictures(std::span<const model::VisionGrid> grids, int ranks);

}  // namespace keye::engine
