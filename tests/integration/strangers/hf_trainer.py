"""Hugging Face Trainer over a small GPT-2 from its configuration: accumulation, evaluation."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

set_seed(4)


class Words(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.randint(1024, (size, 48), generator=generator)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


config = GPT2Config(vocab_size=1024, n_positions=48, n_embd=192, n_layer=2, n_head=4)
model = GPT2LMHeadModel(config)
arguments = TrainingArguments(
    output_dir="runs",
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    max_steps=16,
    eval_strategy="steps",
    eval_steps=6,
    save_strategy="no",
    logging_steps=4,
    report_to=[],
    use_cpu=True,
    disable_tqdm=False,
)
trainer = Trainer(model, arguments, train_dataset=Words(256, 1), eval_dataset=Words(32, 2))
trainer.train()
torch.save({"model": model.state_dict(), "adam": trainer.optimizer.state_dict()}, "result.pt")
