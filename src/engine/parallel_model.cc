#include "engine/parallel_model.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/thread_pool.h"
#include "engine/step_message.h"

namespace keye::engine {
namespace {

/// A rank's share of the pictures that are being encoded.
struct Share {
  std::span<const model::VisionGrid> grids;
  int64_t first_patch = 0, patches = 0;
  int64_t first_row = 0, rows = 0;  // of features
};

Share share_of(std::span<const model::VisionGrid> grids, std::span<const size_t> borders, int rank, int merge) {
  const auto begin = borders[static_cast<size_t>(rank)];
  const auto end = borders[static_cast<size_t>(rank) + 1];
  Share share{.grids = grids.subspan(begin, end - begin)};
  for (size_t i = 0; i < end; ++i) {
    int64_t& patches = i < begin ? share.first_patch : share.patches;
    int64_t& rows = i < begin ? share.first_row : share.rows;
    patches += grids[i].patches();
    rows += model::merged_tokens(grids[i], merge);
  }
  return share;
}

int merge_of(const model::Model& model) {
  KEYE_CHECK(model.config().vision.has_value(), "{} has no vision encoder", model.config().architecture);
  return model.config().vision->merge;
}

class Leader final : public model::Model {
 public:
  Leader(std::unique_ptr<model::Model> part, comm::Group& group) : part_(std::move(part)), group_(group) {}
  ~Leader() override {
    try {
      write_plain(MessageKind::end, message_);
      group_.send(message_);
    } catch (const comm::PeerLost&) {  // nobody is left to be told
    }
  }
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  const model::ModelConfig& config() const override { return part_->config(); }
  const model::KvSpec& kv_spec() const override { return part_->kv_spec(); }
  ops::Backend& backend() override { return part_->backend(); }
  int step_tokens_max() const override { return part_->step_tokens_max(); }
  int step_logits_max() const override { return part_->step_logits_max(); }
  void set_probe(model::Probe probe) override { part_->set_probe(std::move(probe)); }

  void forward(const model::StepInput& input, model::KvCache& cache, View logits) override {
    write_step(input, cache.pages(), message_);
    group_.send(message_);
    part_->forward(input, cache, logits);
  }

  void begin_vision(ConstView pixels, std::span<const model::VisionGrid> grids, View out) override {
    const int ranks = group_.place().size;
    const int merge = merge_of(*part_);
    write_vision(pixels, grids, message_);
    group_.send(message_);
    const std::vector<size_t> borders = share_pictures(grids, ranks);
    shares_.clear();
    for (int rank = 0; rank < ranks; ++rank) {
      const Share share = share_of(grids, borders, rank, merge);
      shares_.push_back({.first_row = share.first_row, .rows = share.rows});
    }
    out_ = out;
    const Share own = share_of(grids, borders, 0, merge);
    own_is_done_ = own.grids.empty();
    if (own_is_done_) return;
    part_->begin_vision(rows(pixels, 0, own.patches), own.grids, rows(out, 0, own.rows));
  }

  bool advance_vision() override {
    write_plain(MessageKind::advance_vision, message_);
    group_.send(message_);
    try {
      if (!own_is_done_) own_is_done_ = part_->advance_vision();
    } catch (const LoopInterrupted&) {
      group_.abandon();
      throw;
    }
    const auto row_bytes = static_cast<size_t>(out_.shape[1]) * sizeof(float);
    group_.gather({}, [&](int rank, size_t offset, std::span<const std::byte> piece) {
      RankShare& share = shares_[static_cast<size_t>(rank)];
      const auto bytes = static_cast<size_t>(share.rows) * row_bytes;
      KEYE_CHECK(offset + piece.size() <= bytes, "rank {} sends {} bytes of features, {} are its own", rank,
                 offset + piece.size(), bytes);
      auto* to = static_cast<std::byte*>(out_.data) + static_cast<size_t>(share.first_row) * row_bytes + offset;
      std::memcpy(to, piece.data(), piece.size());
      share.is_here = offset + piece.size() == bytes;
    });
    const auto is_here = [](const RankShare& share) { return share.is_here || share.rows == 0; };
    return own_is_done_ && std::all_of(shares_.begin() + 1, shares_.end(), is_here);
  }

 private:
  struct RankShare {
    int64_t first_row = 0, rows = 0;
    bool is_here = false;
  };

  std::unique_ptr<model::Model> part_;
  comm::Group& group_;
  Message message_;
  std::vector<RankShare> shares_;  // of the pictures under way
  View out_;
  bool own_is_done_ = false;
};

class Follower {
 public:
  Follower(model::Model& part, comm::Group& group) : part_(part), group_(group) {}

  /// False: it was the last.
  bool obey(std::span<const std::byte> message) {
    switch (checked(message_kind(message))) {
      case MessageKind::step:
        step(message);
        return true;
      case MessageKind::begin_vision:
        begin_vision(message);
        return true;
      case MessageKind::advance_vision:
        advance_vision();
        return true;
      case MessageKind::end:
        return false;
    }
    return false;
  }

 private:
  struct VisionJob {
    Tensor pixels, features;
    std::vector<model::VisionGrid> grids;
    bool is_sent = false;
  };

  /// What rank 0 says is right, or this rank cannot go on.
  template <class T>
  T checked(Result<T> result) {
    if (!result) throw comm::PeerLost(result.error().to_string());
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
  }

  void step(std::span<const std::byte> message) {
    checked(step_.read(message, part_.config().text.hidden));
    if (!cache_ || cache_->pages() != step_.cache_pages()) {
      cache_.emplace(part_.kv_spec(), step_.cache_pages(), part_.backend());
    }
    part_.forward(step_.input(), *cache_, {});
  }

  void begin_vision(std::span<const std::byte> message) {
    const ReceivedVision received = checked(read_vision(message));
    const comm::Place& place = group_.place();
    const std::vector<size_t> borders = share_pictures(received.grids, place.size);
    const Share share = share_of(received.grids, borders, place.rank, merge_of(part_));
    vision_.reset();
    if (share.grids.empty()) return;
    vision_ = std::make_unique<VisionJob>();
    VisionJob& job = *vision_;
    job.grids.assign(share.grids.begin(), share.grids.end());
    job.pixels = Tensor(DType::f32, {share.patches, received.patch_values});
    const View pixels = job.pixels.view();
    const auto before = static_cast<size_t>(share.first_patch * received.patch_values) * sizeof(float);
    std::memcpy(pixels.data, received.pixels.data() + before, pixels.bytes());
    job.features = part_.backend().tensor(DType::f32, {share.rows, part_.config().text.hidden});
    part_.begin_vision(pixels, job.grids, job.features.view());
  }

  void advance_vision() {
    std::span<const std::byte> features;
    if (vision_ && !vision_->is_sent && part_.advance_vision()) {
      const ConstView view = vision_->features.view();
      features = {static_cast<const std::byte*>(view.data), view.bytes()};
      vision_->is_sent = true;
    }
    try {
      group_.gather(features, {});
    } catch (const LoopInterrupted&) {
      vision_.reset();
      throw;
    }
  }

  model::Model& part_;
  comm::Group& group_;
  ReceivedStep step_;
  std::optional<model::KvCache> cache_;
  std::unique_ptr<VisionJob> vision_;
};

}  // namespace

std::unique_ptr<model::Model> make_leader(std::unique_ptr<model::Model> part, comm::Group& group) {
  KEYE_CHECK(group.place().rank == 0, "rank {} leads", group.place().rank);
  return std::make_unique<Leader>(std::move(part), group);
}

void follow(model::Model& part, comm::Group& group) {
  KEYE_CHECK(group.place().rank != 0, "rank 0 follows");
  Follower follower(part, group);
  while (true) {
    try {
      if (!follower.obey(group.receive())) return;
    } catch (const LoopInterrupted&) {  // rank 0 has left this in the middle
    }
  }
}

int64_t least_of_all(comm::Group& group, int64_t mine) {
  group.meet();
  int64_t least = mine;
  const auto bytes = [](int64_t& number) { return std::as_writable_bytes(std::span(&number, 1)); };
  group.gather(bytes(mine), [&](int /*rank*/, size_t /*offset*/, std::span<const std::byte> piece) {
    int64_t other = 0;
    KEYE_CHECK(piece.size() == sizeof other, "{} bytes", piece.size());
    std::memcpy(&other, piece.data(), sizeof other);
    least = std::min(least, other);
  });
  if (group.place().rank == 0) {
    group.send(bytes(least));
  } else {
    const std::span<const std::byte> message = group.receive();
    KEYE_CHECK(message.size() == sizeof least, "{} bytes", message.size());
    std::memcpy(&least, message.data(), sizeof least);
  }
  return least;
}

std::vector<size_t> share_pictures(std::span<const model::VisionGrid> grids, int ranks) {
  int64_t all = 0;
  for (const model::VisionGrid& grid : grids) all += grid.patches();
  std::vector<size_t> borders{0};
  int64_t done = 0;
  size_t next = 0;
  for (int rank = 1; rank <= ranks; ++rank) {
    // A picture belongs to whom its middle falls to.
    while (next < grids.size() && (2 * done + grids[next].patches()) * ranks <= 2 * all * rank) {
      done += grids[next++].patches();
    }
    borders.push_back(rank == ranks ? grids.size() : next);
  }
  return borders;
}

}  // namespace keye::engine
