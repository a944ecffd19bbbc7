#include "text/vocabulary.h"

#include <functional>
#include <limits>

namespace keye::text {

Result<void> Vocabulary::add(std::string_view token, int64_t id, std::string_view where) {
  if (id < 0 || id >= kTokenIdEnd) {
    return make_error(ErrorCode::corrupt_data, where, "token \"{}\" has id {}, expected 0 to {}", token, id,
                      kTokenIdEnd - 1);
  }
  const auto at = static_cast<size_t>(id);
  if (at < entries_.size() && entries_[at].used) {
    return make_error(ErrorCode::corrupt_data, where, "tokens \"{}\" and \"{}\" both have id {}", text_of(entries_[at]),
                      token, id);
  }
  if (letters_.size() + token.size() > std::numeric_limits<uint32_t>::max()) {
    return make_error(ErrorCode::too_large, where, "the tokens are over 4 GiB together");
  }
  if (static_cast<size_t>(size_) * 2 >= slots_.size()) grow();
  const size_t slot = slot_of(token);
  if (slots_[slot] >= 0) {
    return make_error(ErrorCode::corrupt_data, where, "token \"{}\" has the ids {} and {}", token, slots_[slot], id);
  }
  if (at >= entries_.size()) entries_.resize(at + 1);
  entries_[at] = {static_cast<uint32_t>(letters_.size()), static_cast<uint32_t>(token.size()), true};
  letters_ += token;
  slots_[slot] = static_cast<int32_t>(id);
  ++size_;
  return {};
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  const int32_t id = slots_[slot_of(token)];
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<std::string_view> Vocabulary::token(int32_t id) const {
  if (id < 0 || id >= id_end() || !entries_[static_cast<size_t>(id)].used) return std::nullopt;
  return text_of(entries_[static_cast<size_t>(id)]);
}

size_t Vocabulary::slot_of(std::string_view token) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>()(token) & mask;
  while (slots_[slot] >= 0 && text_of(entries_[static_cast<size_t>(slots_[slot])]) != token) slot = (slot + 1) & mask;
  return slot;
}

void Vocabulary::grow() {
  const std::vector<int32_t> old = std::move(slots_);
  slots_.assign(old.empty() ? 1024 : old.size() * 2, -1);
  for (const int32_t id : old) {
    if (id >= 0) slots_[slot_of(text_of(entries_[static_cast<size_t>(id)]))] = id;
  }
}

}  // namespace keye::text
