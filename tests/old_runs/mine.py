from torch import nn


class Mine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 5, padding=2), nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, low):  # from -0.955 (black) to 0.948 (white), in and out
        return nn.functional.pixel_shuffle(self.last(self.first(low).relu()), 2)
