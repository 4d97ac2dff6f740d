#include "c_abi.h"
NATIVE_EXPORT const char* dgr_last_error() { return c_abi::last_error().c_str(); }
