"""What single choices in the recipe `cifar10-slim` are worth: SwAV in PyTorch, learners side by side on the same crops.

    cifar_choices.py TRAIN.tar TEST.tar --epochs 5 --of 20 --hue bytes exact --seed 1 2
    cifar_choices.py TRAIN.tar TEST.tar --epochs 13 --of 20 --prototypes 512 3000 --queue 0@0 512@2 512@10
    cifar_choices.py TRAIN.tar TEST.tar --epochs 20 --of 20 --epsilon 0.03 --rate 0.002 0.003 --warmup 0 1

One learner for every combination. `--hue bytes` is torchvision's jitter of Pillow images, which goes through HSV of 8
bits; `exact` turns the hue in floating point. `--queue N@E`: N embeddings of each crop, from epoch E on. `--warmup`:
epochs in which the rate rises. Prints a line of JSON for each learner and epoch: the mean loss, and kNN-200 on the test
images; after the last epoch linear accuracy as well. Meant for a GPU and a dozen cores."""

import argparse
import itertools
import json
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import functional

from cifar_lightly import BATCH, DIM, MEAN, STD, read
from probe import knn, linear
from step_torch import assign, slim

SIZE, JITTER, DECAY, TEMPERATURE = 32, (0.4, 0.4, 0.4, 0.1), 1e-6, 0.1
CHOICES = "hue", "prototypes", "queue", "epsilon", "rate", "warmup", "seed"


class ExactHue(transforms.ColorJitter):
    def forward(self, image):
        order, *amounts = self.get_params(self.brightness, self.contrast, self.saturation, self.hue)
        steps = functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation
        for step in order:
            if step < 3:
                image = steps[step](image, amounts[step])
            else:
                image = functional.to_pil_image(functional.adjust_hue(functional.pil_to_tensor(image), amounts[3]))
        return image


class Views(torch.utils.data.Dataset):
    def __init__(self, images, hue):
        jitter = {"bytes": transforms.ColorJitter, "exact": ExactHue}[hue](*JITTER)
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE, scale=(0.14, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], p=0.8),
                transforms.RandomGrayscale(0.2),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.transform(self.images[index])


class Learner(nn.Module):
    def __init__(self, steps_per_epoch, epochs, device, *, prototypes, queue, epsilon, rate, warmup, seed, **_):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone, width = slim()
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, DIM)
        )
        self.prototypes = nn.Linear(DIM, prototypes, bias=False)
        self.to(device)
        length, start = map(int, queue.split("@"))
        self.start, self.step, self.losses, self.epsilon = start * steps_per_epoch, 0, 0.0, epsilon
        self.queue = torch.zeros(2, length, DIM, device=device)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=rate, weight_decay=DECAY)
        rising, steps = warmup * steps_per_epoch, steps_per_epoch * epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: (step + 1) / rising
            if step < rising
            else (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2,
        )

    @torch.no_grad()
    def codes(self, embeddings):
        """Of both crops; the queue takes part once it is full, and learns of the batch only then."""
        codes, length = [], self.queue.shape[1]
        for queue, own in zip(self.queue, embeddings.chunk(2)):
            full = length and self.step - self.start >= length // BATCH
            rows = torch.cat([queue, own]) if full else own
            codes.append(assign(self.prototypes(rows), self.epsilon)[-BATCH:])
            if length and self.step >= self.start:
                queue.copy_(torch.cat([own, queue[:-BATCH]]))
        return codes

    def learn(self, crops):
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        embeddings = F.normalize(self.head(self.backbone(crops)), dim=1)
        scores = F.log_softmax(self.prototypes(embeddings) / TEMPERATURE, dim=1).chunk(2)
        first, second = self.codes(embeddings.detach())
        loss = -((first * scores[1]).sum(1).mean() + (second * scores[0]).sum(1).mean()) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.losses += loss.detach()

    @torch.no_grad()
    def features(self, images):
        self.backbone.eval()
        rows = torch.cat([self.backbone(part) for part in images.split(1000)]).cpu()
        self.backbone.train()
        return rows


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("train")
    arguments.add_argument("test")
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--of", type=int, default=20, help="epochs that the rate is scheduled for")
    arguments.add_argument("--hue", nargs="+", default=["bytes"], choices=["bytes", "exact"])
    arguments.add_argument("--prototypes", nargs="+", type=int, default=[512])
    arguments.add_argument("--queue", nargs="+", default=["0@0"])
    arguments.add_argument("--epsilon", nargs="+", type=float, default=[0.05])
    arguments.add_argument("--rate", nargs="+", type=float, default=[2e-3])
    arguments.add_argument("--warmup", nargs="+", type=int, default=[0])
    arguments.add_argument("--seed", nargs="+", type=int, default=[1])
    arguments.add_argument("--workers", type=int, default=6, help="for each kind of hue")
    arguments.add_argument("--device", default="cuda")
    arguments = arguments.parse_args()
    torch.backends.cudnn.allow_tf32 = False

    def normalised(pixels):
        mean, std = (torch.tensor(x, device=arguments.device).view(3, 1, 1) for x in (MEAN, STD))
        return (pixels.to(arguments.device) / 255.0 - mean) / std

    def whole(images):
        return normalised(torch.from_numpy(np.stack(list(map(np.asarray, images)))).permute(0, 3, 1, 2))

    (images, labels), (held_out, wanted) = read(arguments.train), read(arguments.test)
    bank, queries = whole(images), whole(held_out)
    steps = len(images) // BATCH
    kinds = itertools.product(*(getattr(arguments, choice) for choice in CHOICES))
    kinds = [dict(zip(CHOICES, kind)) for kind in kinds]
    learners = [(kind, Learner(steps, arguments.of, arguments.device, **kind)) for kind in kinds]
    loaders = [
        torch.utils.data.DataLoader(
            Views(images, hue),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=arguments.workers,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(11),
        )
        for hue in arguments.hue
    ]
    for epoch in range(1, arguments.epochs + 1):
        for batches in zip(*loaders):
            crops = {hue: normalised(torch.cat(views)) for hue, views in zip(arguments.hue, batches)}
            for kind, learner in learners:
                learner.learn(crops[kind["hue"]])
        for kind, learner in learners:
            known, asked = learner.features(bank), learner.features(queries)
            entry = dict(kind, epoch=epoch, loss=learner.losses.item() / steps)
            entry["knn_200"] = knn(known, labels, asked, wanted)
            if epoch == arguments.epochs:
                entry["linear"] = linear(known, labels, asked, wanted)
            learner.losses = 0.0
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
