"""legacy_logs.py DIR -- make evaluation logs as HYDRA's and R-ADMM's programs write them, below DIR.

The formats are those that lib/report/legacy.c describes. Numbers come from a simple rule, so that tests can say what
must be read: uniform strategies have 60 clean and 40 under FGSM, the N-th searched one 70 + N and 50 + N; each further
attack leaves 2 less; balanced accuracies are 5 less.
"""
import sys
from pathlib import Path

root = Path(sys.argv[1])


def numbers(strategy, attacks):
    last = strategy.split("_")[1]
    clean, fgsm = (60.0, 40.0) if last == "uni" else (70.0 + int(last), 50.0 + int(last))
    return clean, [(a, fgsm - 2 * i) for i, a in enumerate(attacks)]


def write(path, lines):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def standard(kind, clean, attacks, ornament=""):
    off = 5 if kind == "BALANCED" else 0
    return [
        f"{ornament}{kind} ACC: Benign validation accuracy: {clean - off:.2f}, Adversarial validation accuracy by {a}: {v - off:.2f}"
        for a, v in attacks
    ]


hydra, radmm = "hydra-nonuniform/trained_models", "r-admm-nonuniform/ADMM_examples"
for strategy in ["010_uni", "010_0", "010_1", "010_lamp"]:
    clean, attacks = numbers(strategy if strategy != "010_lamp" else "010_9", ["FGSM", "PGD", "CW"])
    write(f"{hydra}/vgg16_bn/cifar10_weight_{strategy}/finetune/eval_advs.log",
          ["2022-03-01 12:00:00,123 - INFO - Namespace(arch='vgg16_bn')",
           *standard("STANDARD", clean, attacks, "2022-03-01 12:10:00,123 - INFO - ")])
    # a log of training: none of its lines is one of evaluation
    write(f"{hydra}/vgg16_bn/cifar10_weight_{strategy}/finetune/setup.log",
          ["Epoch 3, val-method adv, benign validation accuracy 71.0, adversarial validation accuracy 42.0, best_prec 42.0",
           "Pruned model: 90.00%"])
for strategy in ["05_uni", "05_0", "05_0_all"]:
    clean, attacks = numbers(strategy, ["FGSM", "PGD", "CW"])
    write(f"{hydra}/wrn_284/svhn_channel_{strategy}/finetune/eval_advs.log", standard("BALANCED", clean, attacks))
for strategy in ["05_uni", "05_0"]:
    clean, attacks = numbers(strategy, ["FGSM", "PGD", "CW"])
    write(f"{hydra}/resnet50/imagenet_channel_{strategy}/finetune/eval_attacks.log",
          [f"Benign validation accuracy for source-net: Top-1 {clean:.2f}, Top-5 {clean + 20:.2f}"]
          + [f"Adversarial validation accuracy by {a}: Top-1 {v:.2f}, Top-5 {v + 20:.2f}" for a, v in attacks])
# the older evaluator: both kinds of accuracy, PGD of 10 steps
write(f"{hydra}/resnet18/cifar10_weight_001_0/finetune/eval_advs.log",
      [f"{kind} ACC: Benign validation accuracy pgd for source-net: {c:.2f}, Adversarial PGD validation accuracy for source-net: {p:.2f}"
       for kind, c, p in [("BALANCED", 65.0, 45.0), ("STANDARD", 70.0, 50.0)]])
for strategy in ["010_uni", "010_0"]:
    clean, attacks = numbers(strategy, ["FGSM", "PGD10", "PGD20", "CW"])
    name = f"vgg16_bn_retrain_weight_{strategy}"
    write(f"{radmm}/cifar10/eval/adv_bacc_{name}_.log",
          [f"==> Resuming from checkpoint: BEST_{name}.pth.tar", *standard("STANDARD", clean, attacks)])
    write(f"{radmm}/cifar10/logs/{name}_cifar10.log", [" * Nat_Acc@1 70.1 *Adv_Acc@1 41.2", "best mean loss 1.2"])
    name = f"wrn_28_4_retrain_weight_{strategy}"
    write(f"{radmm}/svhn/eval/adv_bacc_{name}_.log",
          [f"==> Resuming from checkpoint: BEST_{name}.pth.tar", *standard("BALANCED", clean, attacks)])
    clean, attacks = numbers(strategy, ["FGSM", "PGD", "CW"])
    write(f"{radmm}/imagenet/eval/adv_bacc_resnet50_retrain_weight_010_{strategy}.log",
          [f" * Nat_Acc@1 {clean:.3f} *Adv_Acc@1 by {a}: {v:.3f}" for a, v in attacks])
