-- May a password be verified? KEYS: the user's wrong passwords from a network, those of them being
-- verified, the network's wrong passwords. ARGV: the password's tag, the count, its time; for how
-- long what is being verified counts at most. Times in ms.
-- Gives {0, wrong so far}; or {1, wait} the user is locked, {2, wait} the network is, {3, wait} too
-- many are being verified.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local count, per = tonumber(ARGV[2]), tonumber(ARGV[3])
local function left(key) return tonumber(redis.call('HGET', key, 'lock') or '0') - now end
if left(KEYS[3]) > 0 then return {2, left(KEYS[3])} end
if left(KEYS[1]) > 0 then return {1, left(KEYS[1])} end
local wrong = 0
if now - tonumber(redis.call('HGET', KEYS[1], 'since') or '0') < per then
  wrong = tonumber(redis.call('HGET', KEYS[1], 'wrong') or '0')
  if redis.call('HEXISTS', KEYS[1], 'tag:' .. ARGV[1]) == 1 then return {0, wrong} end
end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0
  and wrong + redis.call('HLEN', KEYS[2]) >= count then return {3, 1000} end
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {0, wrong}
