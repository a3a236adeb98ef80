"""A Lightning module with validation, a schedule and a checkpoint callback."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(256, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 8),
        )  # fmt: skip

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("valid", nn.functional.cross_entropy(self.body(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


lightning.seed_everything(6)
data = TensorDataset(torch.randn(640, 256), torch.randint(8, (640,)))
train, valid = torch.utils.data.random_split(data, [512, 128])
model = Classifier()
trainer = lightning.Trainer(
    accelerator="cpu", devices=1, max_epochs=3, logger=False, gradient_clip_val=1.0,
    callbacks=[lightning.pytorch.callbacks.ModelCheckpoint("checkpoints", monitor="valid")],
)  # fmt: skip
trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(valid, 64))
state = {"model": model.state_dict(), "adam": trainer.optimizers[0].state_dict()}
torch.save(state, "result.pt")
