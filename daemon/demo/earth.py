"""A simple Earth to observe: an altimeter's ground track, coarse land, smooth fields of the sea.

Nothing here is data: the orbit is a circle with the period, inclination and height of the Jason missions, the land a
few polygons, the fields sums of plane waves. All of it is a pure function of its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Half a revolution, from one turning latitude to the other, in seconds.
PASS_SECONDS = 3372.0

#: Passes until the ground track repeats itself.
PASSES_PER_CYCLE = 254

_INCLINATION = np.deg2rad(66.04)
_EARTH_ROTATION = 2 * np.pi / 86164.1
_EARTH_RADIUS = 6371.0

# Outlines good for a glance at a map: "longitude latitude" in degrees, a closed ring each.
_OUTLINES = {
    "North America": "-168 66,-156 71,-128 70,-110 68,-95 69,-94 60,-82 55,-79 52,-78 58,-77 62,-65 59,-56 52,-60 47,"
    "-66 44,-70 42,-74 40,-76 35,-81 31,-80 26,-82 29,-84 30,-90 30,-97 27,-97 22,-94 18,-91 19,-87 21,-88 16,-83 15,"
    "-82 9,-78 8.5,-80 7.5,-85 10,-92 14.5,-96 16,-105 20,-109 25,-115 31,-117 33,-121 35,-124 40,-124 47,-130 54,"
    "-136 58,-145 60,-152 59,-158 56,-164 55,-158 59,-165 61,-166 64,-162 66",
    "South America": "-78 8.5,-72 12,-62 10.5,-51 4.5,-50 0,-44 -2.5,-35 -6,-39 -13,-39 -18,-42 -23,-48 -26,-53 -33,"
    "-57 -35,-58 -38,-63 -41,-66 -46,-69 -51,-66 -55,-72 -54,-75 -49,-73 -40,-71 -30,-70 -19,-76 -14,-80 -6,-81 -4,"
    "-80 0,-77 4",
    "Africa": "-6 36,10 37.5,11 34,20 31,25 32,33 31,36 24,37 20,40 15,43 11.5,51 12,48 5,41 -2,39 -7,41 -15,35 -20,"
    "35 -24,32 -28,27 -34,19 -35,15 -27,12 -17,13 -9,9 -1,10 4,4 6,-8 4.5,-13 8,-17 14,-17 21,-13 28,-9 32",
    "Eurasia": "-10 37,-9 43,-2 43.5,-1 46,-5 48.5,2 51,8 54,8 57,11 56,11 54,20 55,24 59,30 60,22 60.5,22 64,25 65.5,"
    "18 61,17 57,13 55.5,11 59,6 58.5,5 62,14 68,25 71,41 67,44 66,45 68.5,60 69,68 69,72 73,80 73,105 77.5,113 74,"
    "140 73,160 70,180 69,180 65,178 62.5,170 60,163 58,162 55,157 51,156 57,163 62,155 59,143 59,135 55,141 53,140 48,"
    "131 43,127 40,129 36,126 34.5,125 40,121 39,118 39,122 37,119 35,122 31,120 26,114 22,108 21.5,106 19,109 13,"
    "105 9,100 13.5,100 9,103 3,104 1.5,101 3,98 9,98 16,94 16,91 22,87 21,80 15,80 10,77.5 8,73 17,72.5 21,67 25,"
    "57 26,50 30,48 30,51 25,56 25,60 22.5,55 17,45 13,43 15,39 21,35 28,35 31,36 36.5,28 36.5,27 40,41 41.5,37 45.5,"
    "31 46.5,28 42,26 41,23 38,20 40,19 42,13 45.5,18 40.5,16 38,12 42,9 44,3 43,3 41.5,-1 37.5,-5 36",
    "Australia": "114 -22,122 -18,129 -15,132 -11.5,136 -12,136 -15,140 -17.5,142 -11,146 -19,153 -26,153 -30,150 -37,"
    "146 -39,140 -38,137 -33,131 -31.5,124 -33.5,116 -35,115 -32",
    "Antarctica": "-180 -78,-150 -77,-100 -73,-68 -68,-58 -63.5,-60 -70,-40 -78,-15 -72,20 -70,50 -66.5,80 -68,110 -66,"
    "140 -66.5,170 -71,180 -78,180 -90,-180 -90",
    "Greenland": "-45 60,-53 66,-56 72,-60 76,-35 83,-20 80,-22 71,-38 66",
    "New Guinea": "131 -1,141 -2.5,147 -6,150 -10.5,143 -9,138 -8,133 -4",
    "Borneo": "109 1,116 7,119 5,117 0,116 -4,111 -3",
    "Sumatra": "95 5.5,104 -2,106 -6,102 -4.5",
    "Japan": "130 32,136 34,140 36,141 41,145 43.5,142 45,140 42,139 38,132 35",
    "Great Britain": "-5 50,1 51.5,-2 57,-5 58.5,-5 54",
    "Madagascar": "44 -25,47 -25,50 -15.5,44 -17",
    "New Zealand": "167 -46.5,171 -42.5,175 -40,173 -35,178 -38,174 -42,170 -46",
    "Iceland": "-24 65,-22 66.3,-14 65,-19 63.4",
}


def outlines() -> dict[str, Floats]:
    """Return the land polygons by name, shape (points, 2): longitude and latitude in degrees."""
    return {name: np.array([pair.split() for pair in text.split(",")], float) for name, text in _OUTLINES.items()}


def is_land(longitude: Floats, latitude: Floats) -> npt.NDArray[np.bool_]:
    """Tell which points lie inside a land polygon.

    Parameters
    ----------
    longitude, latitude
        Degrees, longitudes from -180 to 180, shape (n,).
    """
    inside = np.zeros(longitude.shape, np.bool_)
    for ring in outlines().values():
        crossings = np.zeros(longitude.shape, np.int64)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                spans = (latitude >= min(y0, y1)) & (latitude < max(y0, y1))
                crossings += spans & (longitude < x0 + (latitude - y0) * (x1 - x0) / (y1 - y0))
        inside |= crossings % 2 == 1
    return inside


@dataclass(frozen=True)
class Track:
    """Where the satellite was.

    Attributes
    ----------
    seconds
        Since the first pass began, shape (n,).
    """

    seconds: Floats

    @cached_property
    def _argument(self) -> Floats:
        return np.pi * self.seconds / PASS_SECONDS - np.pi / 2

    @cached_property
    def latitude(self) -> Floats:
        """Degrees north; a pass goes from one turning latitude to the other."""
        latitude: Floats = np.rad2deg(np.arcsin(np.sin(_INCLINATION) * np.sin(self._argument)))
        return latitude

    @cached_property
    def longitude(self) -> Floats:
        """Degrees east, from -180 to 180."""
        u = self._argument
        inertial = np.arctan2(np.cos(_INCLINATION) * np.sin(u), np.cos(u))
        longitude: Floats = (np.rad2deg(inertial - _EARTH_ROTATION * self.seconds) + 180.0) % 360.0 - 180.0
        return longitude

    @cached_property
    def altitude(self) -> Floats:
        """Metres above the ellipsoid, greater towards the poles since the Earth is flat there."""
        return 1_336_000.0 + 21_385.0 * np.sin(np.deg2rad(self.latitude)) ** 2

    @cached_property
    def position(self) -> Floats:
        """Unit vectors, shape (n, 3): continuous across the date line."""
        lon, lat = np.deg2rad(self.longitude), np.deg2rad(self.latitude)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


@dataclass(frozen=True)
class Waves:
    """A smooth field of standard deviation 1: a sum of plane waves through the sphere.

    Attributes
    ----------
    seed
        Of the directions and phases.
    shortest, longest
        Wavelengths, in kilometres.
    count
        Number of waves.
    """

    seed: int
    shortest: float
    longest: float
    count: int = 24

    def __call__(self, position: Floats) -> Floats:
        """Evaluate at unit vectors of shape (n, 3); returns shape (n,)."""
        rng = np.random.default_rng(self.seed)
        direction = rng.normal(size=(self.count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = np.exp(rng.uniform(np.log(self.shortest), np.log(self.longest), self.count))
        phase = rng.uniform(0, 2 * np.pi, self.count)
        number = direction * (2 * np.pi * _EARTH_RADIUS / wavelength)[:, None]
        field: Floats = np.sin(position @ number.T + phase).sum(axis=1) * np.sqrt(2 / self.count)
        return field
