// What the phantom runtime needs of the engine beyond the driver's own calls, in C.
#include "phantom/driver.h"

using phantom::GetMemory;
using phantom::GetStreams;
using phantom::Streams;
using phantom::ToAddress;

extern "C" int phantomUseDevice(int device);

#define PHANTOM PHANTOM_EXPORT int

PHANTOM phantomSetDevice(int device) {
  const phantom::InCall being_in_one;
  const int error = GetStreams().SetDevice(device);
  return error != 0 ? error : phantomUseDevice(device);
}
PHANTOM phantomCurrentDevice() {
  const phantom::InCall being_in_one;
  return Streams::CurrentDevice();
}
PHANTOM phantomStickyError() { return GetStreams().sticky(); }
PHANTOM phantomStreamPriority(void* stream) { return GetStreams().Priority(stream); }
PHANTOM phantomCopy(void* to, const void* from, size_t size, void* stream, int wait) {
  const phantom::InCall being_in_one;
  return GetStreams().Copy(ToAddress(to), ToAddress(from), size, stream, wait != 0);
}
PHANTOM phantomCopy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                      size_t height, void* stream, int wait) {
  const phantom::InCall being_in_one;
  return GetStreams().Copy2D(ToAddress(to), to_pitch, ToAddress(from), from_pitch, width, height,
                             stream, wait != 0);
}
PHANTOM phantomFill(void* to, int value, size_t size, void* stream, int wait) {
  const phantom::InCall being_in_one;
  const auto byte = static_cast<unsigned char>(value);
  return GetStreams().Fill(ToAddress(to), byte, 1, size, stream, wait != 0);
}
PHANTOM phantomLaunch(void* stream, const unsigned* grid, const unsigned* block) {
  const phantom::InCall being_in_one;
  return GetStreams().Launch(stream, grid, block);
}
PHANTOM phantomIpcGet(void* at, void* handle_64) {
  return GetMemory().IpcGet(ToAddress(at), handle_64);
}
PHANTOM phantomIpcOpen(const void* handle_64, void** out) {
  phantom::Address at = 0;
  const int error = GetMemory().IpcOpen(handle_64, &at);
  if (error == 0) *out = reinterpret_cast<void*>(at);
  return error;
}
PHANTOM phantomCapture(void* stream, int begin, void** graph) {
  return begin != 0 ? GetStreams().BeginCapture(stream) : GetStreams().EndCapture(stream, graph);
}
PHANTOM phantomCaptureInfo(void* stream, int* status, unsigned long long* id, void** graph) {
  return GetStreams().CaptureInfo(stream, status, id, graph);
}
PHANTOM phantomGraphLaunch(void* graph, void* stream) {
  const phantom::InCall being_in_one;
  return GetStreams().LaunchGraph(graph, stream);
}
PHANTOM_EXPORT void* phantomGraphClone(void* graph) { return Streams::CloneGraph(graph); }
PHANTOM_EXPORT void phantomGraphFree(void* graph) { Streams::FreeGraph(graph); }
PHANTOM_EXPORT size_t phantomGraphSize(void* graph) { return Streams::GraphSize(graph); }
