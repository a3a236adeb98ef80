"""Reinforcement learning: a target network, a replay buffer that grows, evaluation inside."""

import copy
from collections import deque

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(17)
ACTIONS, STATE = 8, 256


def network():
    return nn.Sequential(
        nn.Linear(STATE, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, ACTIONS),
    )


class Environment:
    """Rewards the action that its hidden matrix likes best."""

    def __init__(self):
        self.hidden = torch.randn(STATE, ACTIONS)
        self.state = torch.randn(64, STATE)

    def step(self, action):
        reward = (self.state @ self.hidden).gather(1, action[:, None])[:, 0]
        self.state = torch.randn(64, STATE) + 0.1 * self.state
        return self.state, reward


policy = network()
target = copy.deepcopy(policy).eval()
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
environment = Environment()
memory = deque(maxlen=24)
best, best_score, scores = None, float("-inf"), []

state = environment.state
for step in range(60):
    with torch.no_grad():  # act
        values = policy(state)
        random = torch.rand(64) < 0.2
        action = torch.where(random, torch.randint(ACTIONS, (64,)), values.argmax(1))
    following, reward = environment.step(action)
    memory.append((state, action, reward, following))
    state = following
    if len(memory) < 4:
        continue
    picks = [memory[i] for i in torch.randint(len(memory), (4,)).tolist()]
    states, actions, rewards, followers = (torch.cat(part) for part in zip(*picks, strict=True))
    with torch.no_grad():
        wanted = rewards + 0.9 * target(followers).max(1).values
    found = policy(states).gather(1, actions[:, None])[:, 0]
    loss = F.smooth_l1_loss(found, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), policy.parameters(), strict=True):
            slow.mul_(0.95).add_(fast, alpha=0.05)
    if step % 8 == 7:
        policy.eval()
        with torch.inference_mode():
            seen = torch.randn(512, STATE)
            score = (seen @ environment.hidden).gather(1, policy(seen).argmax(1)[:, None]).mean()
        policy.train()
        scores.append(score.item())
        if score > best_score:
            best, best_score = copy.deepcopy(policy.state_dict()), score.item()
        print(f"step {step} loss {loss.item():.4f} score {score:.3f}", flush=True)

replay = [torch.stack(part) for part in zip(*memory, strict=True)]
state = {"policy": policy.state_dict(), "target": target.state_dict(), "best": best}
torch.save(state | {"scores": scores, "replay": replay}, "result.pt")
