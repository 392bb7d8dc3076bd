-- What came of a password. KEYS as when it began. ARGV: "right", "wrong" or "unknown"; its tag; the
-- count and its time, how many times the count a network has (0: not counted for it), how many
-- passwords are told apart.
-- Times in ms. Gives {how long the user is locked from now on, how long the network is}.
local function whole(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local count, per = tonumber(ARGV[3]), tonumber(ARGV[4])
if ARGV[1] == 'right' then
  -- The count begins anew; what is known to be wrong stays known.
  redis.call('HDEL', KEYS[1], 'wrong', 'lock')
  redis.call('DEL', KEYS[2])
  return {0, 0}
end
if redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then redis.call('HDEL', KEYS[2], ARGV[2]) end
if ARGV[1] ~= 'wrong' then return {0, 0} end

local function is_locked(key)
  return tonumber(redis.call('HGET', key, 'lock') or '0') > now
end
-- Counts one more, and locks if that is too many.
local function count_one(key, most)
  if now - tonumber(redis.call('HGET', key, 'since') or '0') >= per then redis.call('DEL', key) end
  if redis.call('HEXISTS', key, 'wrong') == 0 then redis.call('HSET', key, 'since', whole(now)) end
  local wrong = redis.call('HINCRBY', key, 'wrong', 1)
  local locked = wrong >= most
  if locked then
    redis.call('DEL', key)
    redis.call('HSET', key, 'lock', whole(now + per))
  end
  redis.call('PEXPIRE', key, whole(per))
  return locked and per or 0
end

local tag = 'tag:' .. ARGV[2]
local fresh = now - tonumber(redis.call('HGET', KEYS[1], 'since') or '0') < per
if is_locked(KEYS[1]) or (fresh and redis.call('HEXISTS', KEYS[1], tag) == 1) then return {0, 0} end
local pair = count_one(KEYS[1], count)
if pair == 0 then
  local told = redis.call('HINCRBY', KEYS[1], 'told', 1)
  local oldest = whole(told - tonumber(ARGV[6]))
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    if all[at]:sub(1, 4) == 'tag:' and all[at + 1] == oldest then
      redis.call('HDEL', KEYS[1], all[at])
    end
  end
  redis.call('HSET', KEYS[1], tag, whole(told))
end
local network = 0
if ARGV[5] ~= '0' and not is_locked(KEYS[3]) then network = count_one(KEYS[3], count * tonumber(ARGV[5])) end
return {pair, network}
