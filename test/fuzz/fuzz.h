/* test/fuzz/fuzz.h -- what the libFuzzer targets share.
 *
 * A target is a file with two functions: fuzz_one reads one input as a tool would, and says whether it was
 * accepted; fuzz_seeds makes a few inputs that must be. `build-fuzz/fuzz/NAME --seeds DIR` writes these to
 * DIR after it has tried each, so a target that stops at the door of its format fails before it starts.
 * test/fuzz/run builds everything and runs it.
 *
 * What counts as a finding: whatever AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer report,
 * an input that takes longer than the limit, a single allocation or a total beyond the limits that
 * test/fuzz/run sets, a BUG, an exit (hr_die), and whatever a target itself refuses with `must`.
 *
 * Check sums would keep a fuzzer out. The library is built with FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION, and
 * then hr_crc32c, hr_sha256 and the comparison of gzip's CRC-32 give constants: sums are still read and
 * compared, but sound in a changed file, too. That they refuse every flip is what the unit tests are for.
 *
 * Random bytes would hardly ever be JSON again, or a frame of the right length. So inputs of such formats are
 * changed as documents and as frames by the mutators below; one time in four as plain bytes all the same. */
#ifndef HR_FUZZ_H
#define HR_FUZZ_H

#include "base/base.h"
#include "model/model.h"

/* ---- a target ---------------------------------------------------------------------------------------- */

/* Read one input. Returns true when it was accepted as valid. */
bool fuzz_one(const uint8_t *data, size_t n);
/* Call fuzz_seed for every valid input. */
void fuzz_seeds(void);

/* Write one seed, after fuzz_one has accepted it. name is its file's. */
void fuzz_seed(const char *name, const void *data, size_t n);
/* The same with the content of the file at path, which is removed. */
void fuzz_seed_file(const char *name, const char *path);

/* A property that holds for every input. */
#define must(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            BUG("this must hold for every input: %s", #condition);                                           \
    } while (0)

/* ---- inputs as files --------------------------------------------------------------------------------- */

enum { FUZZ_SLOTS = 2 };
/* The path of a regular file in memory that holds the bytes until the slot's next use. */
const char *fuzz_file(int slot, const void *data, size_t n);
/* A directory of our own, removed at the end. */
const char *fuzz_dir(void);
/* The path of a pipe that delivers the bytes, at most 64 KiB, and ends; *fd is to be closed afterwards. */
const char *fuzz_pipe(const void *data, size_t n, int *fd);
/* A stream whose bytes go nowhere. */
FILE *fuzz_sink(void);

/* ---- a network --------------------------------------------------------------------------------------- */

/* All operations in a small network on 2x6x6 images with 3 classes: a block with a tied shortcut, every pool,
 * two linear layers. Its weights are drawn from seed. The caller frees it. */
hr_model *fuzz_net(uint32_t seed);

/* ---- checkpoints of other programs --------------------------------------------------------------------- */

/* Read one as torch2nn does, from a file and now and then from a pipe. What was accepted comes back the same
 * from both formats that nn2torch writes. Returns whether it was. */
bool fuzz_checkpoint(const uint8_t *data, size_t n);
/* A pickle of a state_dict of the zoo's vgg2, 700 KB of weights that all repeat the 4 elements of one storage
 * "0". Release it. */
hr_buf fuzz_state_pickle(void);

/* ---- mutators: bodies of LLVMFuzzerCustomMutator ----------------------------------------------------- */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max); /* libFuzzer's own, on bytes */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Change one value of a JSON document, or of one of several with the byte separator between them (-1: one
 * document). Whatever follows a document before the separator stays. */
size_t fuzz_mutate_json(uint8_t *data, size_t size, size_t max, unsigned seed, int separator);

/* Change up to three values of a document. doc is stolen, the caller owns the result. */
json_t *fuzz_change_json(json_t *doc, hr_rng *r);

/* A row of frames: head bytes, of which `bytes` at `at` are the payload's length; the payload; tail bytes. */
struct fuzz_frames {
    size_t head, at, bytes;
    bool big; /* endian */
    size_t tail;
    /* changes a payload; NULL: LLVMFuzzerMutate */
    size_t (*payload)(uint8_t *data, size_t size, size_t max, unsigned seed);
};
/* Change the payload of one frame and correct its length; or leave out, repeat, or swap frames. */
size_t fuzz_mutate_frames(const struct fuzz_frames *f, uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
