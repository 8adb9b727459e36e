"""Small archives in exactly the formats that data sets are published in, with real pixels: Fashion-MNIST's
images (Debian's dataset-fashion-mnist), recoloured and framed.

    archives.py cifar10-binary|cifar10-python OUT.tar.gz TRAIN TEST
    archives.py svhn OUT.mat train|t10k N
    archives.py imagenet DIR CLASSES EACH TESTS      ILSVRC2012_img_{train,val}.tar and val.txt
    archives.py folders DIR CLASSES EACH TESTS       the same images as train/CLASS/*.JPEG and val/CLASS/*.JPEG

The bytes are written here by hand or by the libraries that the publishers used, never by the code under test.
Python 2 made CIFAR-10's pickles; Python 3 cannot write such strings any more, hence the opcodes below.
"""
import gzip
import io
import os
import struct
import sys
import tarfile

import numpy as np

FASHION = "/usr/share/datasets/fashion-mnist"


def fashion(part, n, side=32):
    """n images (n, side, side, 3) uint8 and their labels: each class in a colour of its own, on its complement."""
    pixels = gzip.open(f"{FASHION}/{part}-images-idx3-ubyte.gz").read(16 + 784 * n)[16:]
    labels = np.frombuffer(gzip.open(f"{FASHION}/{part}-labels-idx1-ubyte.gz").read(8 + n)[8:], np.uint8)
    grey = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)
    grey = np.pad(grey, ((0, 0), (2, 2), (2, 2))).repeat(side // 32, 1).repeat(side // 32, 2).astype(np.float32) / 255
    hue = (labels[:, None] * np.array([37, 91, 151]) % 200 + 56).astype(np.float32)
    colour = grey[..., None] * hue[:, None, None, :] + (1 - grey[..., None]) * (255 - hue[:, None, None, :]) * 0.4
    return np.clip(colour, 0, 255).astype(np.uint8), labels.astype(np.int64)


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def batches(train, test):
    """The batches in the order in which the published archive holds them."""
    train, test = int(train), int(test)
    images, labels = fashion("train", train)
    parts = {f"data_batch_{i + 1}": (images[i * train // 5 : (i + 1) * train // 5], labels[i * train // 5 : (i + 1) * train // 5])
             for i in range(5)}
    parts["test_batch"] = fashion("t10k", test)
    for name in "data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1":
        yield name, *parts[name]


class Pickle2:
    """What Python 2's cPickle writes under protocol 2."""

    def __init__(self):
        self.out, self.memo = bytearray(b"\x80\x02"), 0

    def put(self):
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        self.memo += 1

    def string(self, s, memo=True):
        self.out += b"U" + bytes([len(s)]) + s if len(s) < 256 else b"T" + struct.pack("<i", len(s)) + s
        if memo:
            self.put()

    def number(self, i):
        if 0 <= i < 256:
            self.out += b"K" + bytes([i])
        elif 0 <= i < 65536:
            self.out += b"M" + struct.pack("<H", i)
        else:
            self.out += b"J" + struct.pack("<i", i)

    def list(self, items, each):
        self.out += b"]"
        self.put()
        for at in range(0, len(items), 1000):
            self.out += b"("
            for item in items[at : at + 1000]:
                each(item)
            self.out += b"e"

    def array(self, a):
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n"
        self.put()
        self.out += b"cnumpy\nndarray\n"
        self.put()
        self.out += b"K\x00\x85"
        self.string(b"b")
        self.out += b"\x87R"
        self.put()
        self.out += b"(K\x01"
        for n in a.shape:
            self.number(n)
        self.out += b"\x86cnumpy\ndtype\n"
        self.put()
        self.string(b"u1")
        self.out += b"K\x00K\x01\x87R"
        self.put()
        self.out += b"(K\x03"
        self.string(b"|")
        self.out += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.string(a.tobytes(), memo=False)
        self.out += b"tb"


def pickled_batch(name, images, labels):
    p = Pickle2()
    p.out += b"}"
    p.put()
    p.out += b"("
    p.string(b"batch_label")
    p.string(b"testing batch 1 of 1" if name == "test_batch" else b"training batch %c of 5" % name[-1].encode())
    p.string(b"labels")
    p.list([int(y) for y in labels], p.number)
    p.string(b"data")
    p.array(planes(images))
    p.string(b"filenames")
    p.list([b"image_s_%06d.png" % i for i in range(len(labels))], p.string)
    return bytes(p.out + b"u.")


def cifar10_binary(out, train, test):
    with tarfile.open(out, "w:gz") as tar:
        directory = tarfile.TarInfo("cifar-10-batches-bin")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name, images, labels in batches(train, test):
            rows = np.concatenate([labels.astype(np.uint8)[:, None], planes(images)], 1)
            add(tar, f"cifar-10-batches-bin/{name}.bin", rows.tobytes())
        add(tar, "cifar-10-batches-bin/readme.html", b"<html>")


def cifar10_python(out, train, test):
    with tarfile.open(out, "w:gz") as tar:
        directory = tarfile.TarInfo("cifar-10-batches-py")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name, images, labels in batches(train, test):
            add(tar, f"cifar-10-batches-py/{name}", pickled_batch(name, images, labels))
            if name == "data_batch_3":
                add(tar, "cifar-10-batches-py/batches.meta", b"\x80\x02}q\x01.")


def svhn(out, part, n):
    from scipy.io import savemat

    images, labels = fashion(part, int(n))
    digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(out, {"X": images.transpose(1, 2, 3, 0), "y": digits}, do_compression=True)


def imagenet_images(classes, each, tests):
    """[(wnid, name, JPEG)] of training images and [(name, wnid, JPEG)] of validation images. Sizes and kinds vary
    as ImageNet's do: landscape and portrait, grey, CMYK, and a PNG under a JPEG's name."""
    from PIL import Image

    images, labels = fashion("train", 4000, side=64)
    wnids = ["n%08d" % (1440764 + 31 * k) for k in range(classes)]

    def jpeg(image, i):
        picture = Image.fromarray(image).resize((72 + 37 * (i % 5), 60 + 29 * (i % 7)), Image.BICUBIC)
        out = io.BytesIO()
        if i % 11 == 3:
            picture.convert("L").save(out, "JPEG")
        elif i % 11 == 5:
            picture.convert("CMYK").save(out, "JPEG", quality=90)
        elif i % 11 == 7:
            picture.save(out, "PNG")
        else:
            picture.save(out, "JPEG", quality=85, subsampling=2, progressive=i % 4 == 0)
        return out.getvalue()

    train, val = [], []
    for k, wnid in enumerate(wnids):
        for n, i in enumerate(np.flatnonzero(labels == k)[:each]):
            train.append((wnid, f"{wnid}_{(n * 7919) % 10007}.JPEG", jpeg(images[i], n)))
    for n in range(tests):
        i = np.flatnonzero(labels == n * 3 % classes)[each + n]
        val.append((f"ILSVRC2012_val_{n + 1:08d}.JPEG", wnids[n * 3 % classes], jpeg(images[i], n)))
    return train, val


def imagenet(out, classes, each, tests):
    train, val = imagenet_images(int(classes), int(each), int(tests))
    os.makedirs(out, exist_ok=True)
    with tarfile.open(f"{out}/ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in sorted({w for w, _, _ in train}):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for w, name, data in train:
                    if w == wnid:
                        add(tar, name, data)
            add(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(f"{out}/ILSVRC2012_img_val.tar", "w") as tar:
        for name, _, data in val:
            add(tar, name, data)
    with open(f"{out}/val.txt", "w") as f:
        f.writelines(f"{name} {wnid}\n" for name, wnid, _ in reversed(val))


def folders(out, classes, each, tests):
    train, val = imagenet_images(int(classes), int(each), int(tests))
    for part, images in ("train", train), ("val", [(wnid, name, data) for name, wnid, data in val]):
        for wnid, name, data in images:
            os.makedirs(f"{out}/{part}/{wnid}", exist_ok=True)
            with open(f"{out}/{part}/{wnid}/{name}", "wb") as f:
                f.write(data)


MAKERS = {"cifar10-binary": cifar10_binary, "cifar10-python": cifar10_python, "svhn": svhn,
          "imagenet": imagenet, "folders": folders}

if __name__ == "__main__":
    kind, out, *rest = sys.argv[1:]
    MAKERS[kind](out, *rest)
