"""Stand-ins for the libraries of CUDA: programs link them, and start with or without a driver.

    stand_ins.py SOURCES FOLDER        # the sources of the crate `cudarc`, and where the archives go

Each function looks for the real one when it is first called; without its library it gives that library's error for "there is none".
For x86-64 on Linux, by its C compiler.
"""

import os
import re
import subprocess
import sys

# The module of the bindings, the archive, names of the library, what its functions give where it is missing.
LIBRARIES = [
    ("driver", "cuda", ["libcuda.so.1"], 100),  # CUDA_ERROR_NO_DEVICE
    ("nvrtc", "nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], 11),  # NVRTC_ERROR_INTERNAL_ERROR
    ("curand", "curand", ["libcurand.so.10"], 101),  # CURAND_STATUS_NOT_INITIALIZED
    ("cublaslt", "cublasLt", ["libcublasLt.so.13", "libcublasLt.so.12"], 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    ("cublas", "cublas", ["libcublas.so.13", "libcublas.so.12"], 1),
]

# Finds a function. Names with a folder before them come from CUDA_LIB_DIRS, and from where CUDA usually is.
FIND = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static long missing(void) { return %(error)d; }
static void *library(void) {
  static const char *names[] = {%(names)s, 0};
  const char *dirs = getenv("CUDA_LIB_DIRS");
  char list[8192], path[4096];
  void *found = 0;
  for (int i = 0; names[i] && !found; i++) found = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL);
  snprintf(list, sizeof list, "%%s:/usr/local/cuda/lib64:/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64", dirs ? dirs : "");
  for (char *rest = 0, *dir = strtok_r(list, ":", &rest); dir; dir = strtok_r(0, ":", &rest))
    for (int i = 0; names[i] && !found; i++) {
      snprintf(path, sizeof path, "%%s/%%s", dir, names[i]);
      found = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    }
  return found;
}
__attribute__((visibility("hidden"))) void *%(library)s_find(const char *name) {
  static void *found;
  static int looked;
  if (!__atomic_load_n(&looked, __ATOMIC_ACQUIRE)) {
    __atomic_store_n(&found, library(), __ATOMIC_RELEASE);
    __atomic_store_n(&looked, 1, __ATOMIC_RELEASE);
  }
  void *at = __atomic_load_n(&found, __ATOMIC_ACQUIRE);
  void *function = at ? dlsym(at, name) : 0;
  return function ? function : (void *)missing;
}
"""

# Keeps the arguments, finds the function whose number lies on the stack, and goes on there.
COMMON = """
.text
.hidden {0}_find
{0}_common:
  push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %rax
  sub $136, %rsp
{1}
  mov 192(%rsp), %rax
  lea {0}_names(%rip), %rdi
  movslq (%rdi,%rax,4), %rcx
  add %rcx, %rdi
  call {0}_find
  mov %rax, %r11
  mov 192(%rsp), %rcx
  lea {0}_slots(%rip), %rdx
  mov %r11, (%rdx,%rcx,8)
{2}
  add $136, %rsp
  pop %rax; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi
  add $8, %rsp
  jmp *%r11
"""


def assembly(library, functions):
    keep, give = ("\n".join(f"  movups {line(i)}" for i in range(8)) for line in (lambda i: f"%xmm{i}, {16 * i}(%rsp)", lambda i: f"{16 * i}(%rsp), %xmm{i}"))
    text = [COMMON.format(library, keep, give)]
    for i, name in enumerate(functions):
        text.append(f".globl {name}\n.type {name}, @function\n{name}: jmp *{library}_slots+{8 * i}(%rip)\n{library}_first{i}: pushq ${i}; jmp {library}_common\n")
    text.append(f".data\n.balign 8\n{library}_slots:\n")
    text += [f"  .quad {library}_first{i}\n" for i in range(len(functions))]
    text.append(f".section .rodata\n.balign 4\n{library}_names:\n")
    text += [f"  .long {library}_name{i}-{library}_names\n" for i in range(len(functions))]
    text += [f'{library}_name{i}: .asciz "{name}"\n' for i, name in enumerate(functions)]
    text.append('.section .note.GNU-stack, "", @progbits\n')
    return "".join(text)


def main():
    sources, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    for module, library, names, error in LIBRARIES:
        with open(f"{sources}/{module}/sys/mod.rs") as bindings:
            functions = sorted(set(re.findall(r'extern "C" \{\s*fn (\w+)', bindings.read())))
        if not functions:
            sys.exit(f"{sources}/{module}: there are no bindings as they were known")
        parts = {"c": FIND % {"error": error, "names": ", ".join(f'"{name}"' for name in names), "library": library}}
        parts["s"] = assembly(library, functions)
        for kind, text in parts.items():
            with open(f"{folder}/{library}.{kind}", "w") as file:
                file.write(text)
            subprocess.check_call(["cc", "-O2", "-fPIC", "-c", f"{folder}/{library}.{kind}", "-o", f"{folder}/{library}_{kind}.o"])
        archive = f"{folder}/lib{library}.a"
        if os.path.exists(archive):
            os.remove(archive)
        subprocess.check_call(["ar", "crs", archive, f"{folder}/{library}_c.o", f"{folder}/{library}_s.o"])


main()
