// A library that calls another one's function; linked in the ways that libraries are linked in.
extern "C" __attribute__((visibility("default"))) int toy_target(int value);

#ifdef TOY_IN_TWO_PLACES
using Function = int (*)(int);
extern "C" __attribute__((visibility("default"))) Function toy_pointer;
Function toy_pointer = &toy_target;
#endif

extern "C" __attribute__((visibility("default"))) int toy_call(int value) {
  return toy_target(value) * 10;
}
