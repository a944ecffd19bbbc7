#include "comm/messages.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "comm/frame.h"

namespace keye::comm {
namespace {

constexpr size_t kTextBytesMax = 4096;
constexpr size_t kEntriesMax = 256;

class Writer {
 public:
  template <class T>
  Writer& number(T value) {
    static_assert(std::is_integral_v<T>);
    return raw(std::as_bytes(std::span(&value, 1)));
  }
  Writer& text(const std::string& text) {
    KEYE_CHECK(text.size() <= kTextBytesMax, "a text of {} bytes", text.size());
    return number(static_cast<uint32_t>(text.size())).raw(std::as_bytes(std::span(text)));
  }
  Writer& raw(std::span<const std::byte> bytes) {
    const size_t before = bytes_.size();
    bytes_.resize(before + bytes.size());
    if (!bytes.empty()) std::memcpy(bytes_.data() + before, bytes.data(), bytes.size());
    return *this;
  }
  Writer& texts(const std::vector<std::string>& texts) {
    number(static_cast<uint32_t>(texts.size()));
    for (const std::string& one : texts) text(one);
    return *this;
  }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

/// After the first mistake everything reads as empty.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  T number() {
    T value{};
    const auto bytes = raw(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  std::string text() {
    const auto length = number<uint32_t>();
    if (length > kTextBytesMax) is_good_ = false;
    const auto bytes = raw(length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::span<const std::byte> raw(size_t count) {
    if (!is_good_ || count > rest_.size()) {
      is_good_ = false;
      return {};
    }
    const auto bytes = rest_.first(count);
    rest_ = rest_.subspan(count);
    return bytes;
  }
  /// How many entries follow.
  size_t count() {
    const auto entries = number<uint32_t>();
    if (entries > kEntriesMax) is_good_ = false;
    return is_good_ ? entries : 0;
  }
  std::vector<std::string> texts() {
    std::vector<std::string> texts;
    for (size_t i = count(); i > 0 && is_good_; --i) texts.push_back(text());
    return texts;
  }
  bool is_whole() const { return is_good_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool is_good_ = true;
};

Error malformed(std::string_view what) { return make_error(ErrorCode::corrupt_data, what, "is malformed"); }

bool is_place(const Place& place) {
  return place.nodes >= 1 && place.size >= place.nodes && place.size % place.nodes == 0 && place.size <= 1 << 16 &&
         0 <= place.rank && place.rank < place.size;
}

}  // namespace

Bytes write_hello(const Hello& hello) {
  Writer writer;
  writer.number(hello.protocol).number(hello.node).number(hello.nodes).number(hello.size).number(hello.terms_max);
  writer.number(static_cast<uint32_t>(hello.agreed.size()));
  for (const auto& [name, value] : hello.agreed) writer.text(name).text(value);
  return writer.take();
}

Result<Hello> read_hello(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Hello hello;
  hello.protocol = reader.number<uint32_t>();
  if (hello.protocol != kProtocol && hello.protocol != 0) return hello;
  hello.node = reader.number<int32_t>();
  hello.nodes = reader.number<int32_t>();
  hello.size = reader.number<int32_t>();
  hello.terms_max = reader.number<int64_t>();
  for (size_t i = reader.count(); i > 0; --i) {
    std::string name = reader.text();
    hello.agreed.emplace_back(std::move(name), reader.text());
  }
  if (!reader.is_whole()) return malformed("a node's greeting");
  return hello;
}

std::optional<std::string> difference(const Hello& node, const Hello& node0) {
  const auto differs = [&](std::string_view name, const auto& there, const auto& here) {
    return fmt::format("{} is {} at node {} and {} at node 0", name, there, node.node, here);
  };
  if (node.protocol != node0.protocol) {
    return fmt::format("the protocol between nodes is {} there and {} at node 0: another version of the program",
                       node.protocol, node0.protocol);
  }
  if (node.nodes != node0.nodes) return differs("--nnodes", node.nodes, node0.nodes);
  if (node.size != node0.size) return differs("--tp-size", node.size, node0.size);
  if (node.node < 1 || node.node >= node0.nodes) {
    return fmt::format("--node-rank is {} there; nodes other than 0 have [1, {})", node.node, node0.nodes);
  }
  const auto value_of = [](const Hello& hello, const std::string& name) -> std::string {
    const auto found =
        std::find_if(hello.agreed.begin(), hello.agreed.end(), [&](const auto& entry) { return entry.first == name; });
    return found == hello.agreed.end() ? "not given" : "\"" + found->second + "\"";
  };
  for (const Hello* either : {&node0, &node}) {
    for (const auto& [name, value] : either->agreed) {
      const std::string there = value_of(node, name);
      const std::string here = value_of(node0, name);
      if (there != here) return differs(name, there, here);
    }
  }
  if (node.terms_max != node0.terms_max) return differs("the size of a step", node.terms_max, node0.terms_max);
  return std::nullopt;
}

Bytes write_welcome(const Welcome& welcome) { return Writer().texts(welcome.hosts).take(); }

Result<Welcome> read_welcome(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Welcome welcome{reader.texts()};
  if (!reader.is_whole()) return malformed("node 0's welcome");
  return welcome;
}

Bytes write_join(const Join& join) {
  Writer writer;
  writer.number(join.place.rank).number(join.place.size).number(join.place.nodes);
  writer.number(join.timeout_ms).number(join.meet_timeout_ms).number(join.terms_max);
  return writer.raw(std::as_bytes(std::span(join.key.bytes))).texts(join.hosts).number(join.port).take();
}

Result<Join> read_join(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Join join;
  join.place.rank = reader.number<int>();
  join.place.size = reader.number<int>();
  join.place.nodes = reader.number<int>();
  join.timeout_ms = reader.number<int64_t>();
  join.meet_timeout_ms = reader.number<int64_t>();
  join.terms_max = reader.number<int64_t>();
  const auto key = reader.raw(join.key.bytes.size());
  if (!key.empty()) std::memcpy(join.key.bytes.data(), key.data(), key.size());
  join.hosts = reader.texts();
  join.port = reader.number<uint16_t>();
  const bool is_good = reader.is_whole() && is_place(join.place) && join.timeout_ms > 0 && join.terms_max >= 0 &&
                       (join.place.nodes == 1 || join.hosts.size() == static_cast<size_t>(join.place.nodes));
  if (!is_good) return malformed("what a rank was told");
  return join;
}

}  // namespace keye::comm
