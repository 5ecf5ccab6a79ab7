-- lease: one incarnation's lease as it stands. Part of every script about it; follows clock.lua.
--
-- KEYS  1 lease (hash: state live, provisional or dead; beat: grows with each renewal; length: milliseconds)
--       2 index (hash: 'c:' and a channel -> nonce)
-- ARGV  1 seconds both are remembered
-- No clock ends a lease. Who looks after it waits until the beat has not changed for the length, by its own measure.
local call, format = redis.call, string.format
local lease, index = KEYS[1], KEYS[2]
local held = call('HMGET', lease, 'state', 'beat', 'length')
local state, beat, length = held[1], held[2], held[3]

local function remember()
  call('EXPIRE', lease, ARGV[1])
  call('EXPIRE', index, ARGV[1])
end

-- Gives the lease another beat. It is higher than the last one even when the server's clock was set back, and no earlier
-- one comes again when the lease was lost in between.
local function write(new, milliseconds)
  state, length = new, milliseconds
  beat = format('%d', math.max(tonumber(beat or 0) + 1, microseconds()))
  call('HSET', lease, 'state', state, 'beat', beat, 'length', length)
  remember()
end

local function bury()
  call('HSET', lease, 'state', 'dead')
  remember()
end
